"""The real CIFAR-10, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexgroup.zoo import ImageData, load_data


@pytest.fixture(scope="session")
def cifar10(shared_data: Path) -> ImageData:
    return load_data(f"cifar10:{shared_data / 'cifar10'}")
