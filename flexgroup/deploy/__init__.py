"""Ahead of time: a network as one object file and one C header, without a runtime library."""

from flexgroup.deploy._export import ExportedFiles, export

__all__ = ["ExportedFiles", "export"]
