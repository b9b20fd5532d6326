"""The real CIFAR-10 and the real photographs, each read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexgroup.zoo import ImageData, load_data


@pytest.fixture(scope="session")
def cifar10(shared_data: Path) -> ImageData:
    return load_data(f"cifar10:{shared_data / 'cifar10'}")


@pytest.fixture(scope="session")
def photographs(shared_data: Path) -> ImageData:
    return load_data(f"imagenet:{shared_data / 'imagenet_eval'}")
