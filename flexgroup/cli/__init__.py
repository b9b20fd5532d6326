"""The command ``flexgroup``: one thin file a command."""

from flexgroup.cli._app import main as main
