"""Data sets as tensors: scikit-learn's digits; CIFAR-10, and photographs of ImageNet's classes, from a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.zoo._cifar_files import Arrays, read_cifar10
from flexgroup.zoo._imagenet_files import read_imagenet
from flexgroup.zoo._normalisation import IMAGENET, Normalisation

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_TEST_IMAGES = 500


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images for training and test; some data sets, called ``name`` in messages, are for test alone.

    Images are uint8 (N, C, H, W) tensors with values 0..``scale``, a quarter of what they take as floats;
    `train` and `test` give them normalised: ``(images / scale - mean) / std`` by channel. Labels are int64
    (N,) tensors of indices into ``classes``. A data set for test alone has no (N = 0) training images.
    Raises `FlexgroupError` when made from images and labels that do not belong together.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    scale: int = 255
    name: str = "of this kind"

    def __post_init__(self) -> None:
        for split, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != len(self.mean):
                raise FlexgroupError(
                    f"{split} images are {images.dtype} {tuple(images.shape)}; "
                    f"need uint8 (images, {len(self.mean)}, height, width)"
                )
            if labels.shape != images.shape[:1]:
                raise FlexgroupError(
                    f"there are {len(images)} {split} images but {len(labels)} labels; the files do not belong together"
                )
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise FlexgroupError(
                    f"{split} labels run from {int(labels.min())} to {int(labels.max())}; "
                    f"with {len(self.classes)} classes they must lie in 0..{len(self.classes) - 1}"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.test_images.shape[1:]
        return channels, height, width

    def train(self) -> tuple[Tensor, Tensor]:
        """The normalised float32 training images and their labels; raises as `check_trains`."""
        self.check_trains()
        return self.normalise(self.train_images), self.train_labels

    def check_trains(self) -> None:
        """Raise `FlexgroupError` where there are no training images."""
        if not len(self.train_images):
            raise FlexgroupError(
                f"data {self.name} is for evaluation only and has no training images; "
                "train on digits, cifar10:FOLDER or images of your own"
            )

    def hold_out(self, count: int) -> tuple[ImageData, Tensor, Tensor]:
        """The same data with ``count`` training images fewer, and those: uint8 images and labels for validation.

        Always the same ones, drawn at random. Raises `FlexgroupError` unless some are left to train on.
        """
        self.check_trains()
        if not 0 < count < len(self.train_images):
            raise FlexgroupError(
                f"{count} of {len(self.train_images)} training images cannot be held out for validation; "
                f"choose 1 to {len(self.train_images) - 1}"
            )
        order = torch.randperm(len(self.train_images), generator=torch.Generator().manual_seed(0))
        held, left = order[:count].sort().values, order[count:].sort().values
        rest = replace(self, train_images=self.train_images[left], train_labels=self.train_labels[left])
        return rest, self.train_images[held], self.train_labels[held]

    def test(self) -> tuple[Tensor, Tensor]:
        """The normalised float32 test images and their labels."""
        return self.normalise(self.test_images), self.test_labels

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) pixels -> float32 ``(images / scale - mean) / std``, on the pixels' device."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return images.to(torch.float32).div_(self.scale).sub_(mean).div_(std)


def load_data(spec: str, normalisation: Normalisation | None = None) -> ImageData:
    """The data set that ``spec`` names.

    - ``"digits"``: scikit-learn's 1,797 handwritten digits of 8x8 pixels, part of that package; always the
      same 1,297 for training and 500 for test, with the classes in equal proportion.
    - ``"cifar10:FOLDER"``: CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
      2009) in any layout that `flexgroup.zoo.read_cifar10` knows, normalised as the pretrained networks
      expect.
    - ``"imagenet:FOLDER"``: photographs of 224x224 pixels with ImageNet's labels, as `flexgroup.zoo.read_imagenet`
      reads them, for evaluation only: no training images. Pretrained networks differ in the pixels they expect: give
      the network's `flexgroup.zoo.normalisation`; without one it is torchvision's.

    Raises `FlexgroupError` for another spec, and where files are absent, damaged or inconsistent.
    """
    name, _, folder = spec.partition(":")
    if spec == "digits":
        return _digits()
    if name == "cifar10" and folder:
        return _cifar10(Path(folder).expanduser())
    if name == "imagenet" and folder:
        return _imagenet(Path(folder).expanduser(), normalisation or IMAGENET)
    raise FlexgroupError(
        f"data {spec!r} is unknown; choose digits, or cifar10:FOLDER with the folder that holds CIFAR-10, "
        "or imagenet:FOLDER with the folder that holds labelled photographs"
    )


def _cifar10(folder: Path) -> ImageData:
    train, test = read_cifar10(folder)
    try:
        return ImageData(*_tensors(train), *_tensors(test), *IMAGENET, classes=CIFAR10_CLASSES)
    except FlexgroupError as error:
        raise FlexgroupError(f"data cifar10:{folder}: {error}") from error


def _imagenet(folder: Path, normalisation: Normalisation) -> ImageData:
    images, labels, classes = read_imagenet(folder)
    none = images[:0], labels[:0]
    name = f"imagenet:{folder}"
    try:
        return ImageData(*_tensors(none), *_tensors((images, labels)), *normalisation, classes=classes, name=name)
    except FlexgroupError as error:
        raise FlexgroupError(f"data {name}: {error}") from error


def _digits() -> ImageData:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise FlexgroupError("data digits needs scikit-learn; install it: pip install 'flexgroup[demo]'") from error
    images, labels = load_digits().images.astype(np.uint8)[:, None], load_digits().target
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=DIGITS_TEST_IMAGES, stratify=labels, random_state=0
    )
    return ImageData(
        *_tensors((train_images, train_labels)),
        *_tensors((test_images, test_labels)),
        mean=(float(train_images.mean() / 16),),
        std=(float(train_images.std() / 16),),
        classes=tuple("0123456789"),
        scale=16,
    )


def _tensors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    images, labels = arrays
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
