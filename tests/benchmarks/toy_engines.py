"""Engines that need nothing, for the tests of the process that runs them."""

from __future__ import annotations

import os

from _peers._engine import Call, Engine, Files


class Echo(Engine):
    key = "echo"
    name = "Echo"
    distributions = ("numpy",)

    def convert(self, files: Files) -> None:
        print("converted")
        (files.own / "model.echo").write_text("here")

    def load(self, files: Files, threads: int) -> Call:
        x = files.example()
        return lambda: x * threads


class Dying(Echo):
    key = "dying"
    name = "Dying"

    def load(self, files: Files, threads: int) -> Call:
        os.write(2, b"out of luck\n")
        os._exit(3)
