"""The one error class of the package: every message says what, where, why and what to do."""


class FlexgroupError(ValueError):
    """Bad input to flexgroup. The command line prints the message as one line and exits with status 2."""
