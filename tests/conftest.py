"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code and graphs are kept for this run only; kernels are chosen alike on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEXGROUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FLEXGROUP_COSTS", "default")
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data sets and pretrained networks; tests that need it skip where it is absent."""
    named = os.environ.get("FLEXGROUP_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder} (or in the folder that FLEXGROUP_DATA names)")
    return folder
