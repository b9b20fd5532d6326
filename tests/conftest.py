"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch


class TorchRandom:
    """torch's generator, as Hypothesis seeds it, with 0 or what `st.random_module` draws: examples can be repeated."""

    def seed(self, seed: Any) -> None:
        torch.manual_seed(seed)

    def getstate(self) -> Any:
        return torch.random.get_rng_state()

    def setstate(self, state: Any) -> None:
        torch.random.set_rng_state(state)


TORCH_RANDOM = TorchRandom()  # Hypothesis holds it by a weak reference
hypothesis.register_random(TORCH_RANDOM)

# The same examples in every run, so that a failure is the change's; others and more of them by FLEXGROUP_EXAMPLES=50.
hypothesis.settings.register_profile("same", derandomize=True, database=None)
hypothesis.settings.register_profile("more", print_blob=True)
hypothesis.settings.load_profile("more" if "FLEXGROUP_EXAMPLES" in os.environ else "same")


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    """A test draws the same numbers alone, beside others, and in any order (modules and their fixtures aside)."""
    torch.manual_seed(0)


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
