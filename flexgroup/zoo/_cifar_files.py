"""CIFAR-10 from files: the official pickles, torchvision's download folder, or lossless WebP sheets."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError

SIDE = 32

Images: TypeAlias = npt.NDArray[np.uint8]
Labels: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = tuple[Images, Labels]


def read_cifar10(folder: Path) -> tuple[Arrays, Arrays]:
    """The training and the test set in ``folder``: each uint8 (N, 3, 32, 32) images and (N,) labels.

    Layouts, tried in this order: the official python version (``data_batch_1``, ..., ``test_batch``); the
    same inside ``cifar-10-batches-py``, as torchvision leaves it; WebP sheets (``train_1.webp``, ...,
    ``test.webp``: tiles of 32x32 in rows) with ``labels.npz`` (arrays ``train`` and ``test``). A file may
    hold any number of images.

    The pickles are read without executing what is in them. Raises `FlexgroupError` where no layout is found,
    and where a file is damaged.
    """
    if not folder.is_dir():
        raise FlexgroupError(f"data cifar10:{folder}: there is no such folder; check the path")
    for home in (folder, folder / "cifar-10-batches-py"):
        batches = _numbered(home, r"data_batch_(\d+)")
        if batches and (home / "test_batch").is_file():
            return _join([_read_batch(file) for file in batches]), _read_batch(home / "test_batch")
    sheets = _numbered(folder, r"train_(\d+)\.webp")
    if sheets and (folder / "test.webp").is_file() and (folder / "labels.npz").is_file():
        return _read_sheets(folder, sheets)
    raise FlexgroupError(
        f"data cifar10:{folder}: no CIFAR-10 found; looked for data_batch_1.. with test_batch (also inside "
        "cifar-10-batches-py/), and for train_1.webp.. with test.webp and labels.npz; "
        "unpack cifar-10-python.tar.gz there"
    )


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """The files in ``folder`` whose whole name matches, in the order of the number in it."""
    if not folder.is_dir():
        return []
    found = ((re.fullmatch(pattern, file.name), file) for file in folder.iterdir())
    return [file for _, file in sorted((int(match[1]), file) for match, file in found if match)]


def _join(parts: list[Arrays]) -> Arrays:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _read_batch(file: Path) -> Arrays:
    try:
        batch = _DataOnlyUnpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        data, labels = batch[b"data"], np.asarray(batch[b"labels"])
        images = data.array() if isinstance(data, _PickledArray) else np.asarray(data)
    except FlexgroupError as error:
        raise FlexgroupError(f"data file {file}: {error}") from error
    except Exception as error:  # pickle promises no particular one for a damaged file
        reason = " ".join(str(error).split())  # one line, whatever the unpickler says
        raise FlexgroupError(
            f"data file {file}: not a complete CIFAR-10 batch ({type(error).__name__}: {reason}); download it again"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3 * SIDE * SIDE:
        raise FlexgroupError(
            f"data file {file}: its images are {images.dtype} {images.shape}; CIFAR-10 has uint8 (images, 3072)"
        )
    if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise FlexgroupError(
            f"data file {file}: {len(images)} images but labels of shape {labels.shape} and type "
            f"{labels.dtype}; "
            "download it again"
        )
    return images.reshape(-1, 3, SIDE, SIDE), labels


class _PickledArray:
    """What a pickle says about an array of bytes.

    A stand-in, because the real classes would hand the file's content to numpy's C code, which trusts it.
    """

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, bytes]) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def array(self) -> Images:
        if not isinstance(self.dtype, _PickledDtype) or self.dtype.name not in ("u1", "|u1") or self.fortran:
            raise ValueError("its array is not of row-major bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape).copy()


class _PickledDtype:
    """What a pickle says about an element type."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        """Byte order and such: nothing that matters for bytes."""


def _reconstruct(*_: object) -> _PickledArray:
    return _PickledArray()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise FlexgroupError(f"text in encoding {encoding!r} is not part of CIFAR-10; download it again")
    return text.encode("latin1")


class _DataOnlyUnpickler(pickle.Unpickler):
    """Reads numbers, text, lists and byte arrays; refuses every other name in the pickle, imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledDtype,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise FlexgroupError(
                f"it asks for {module}.{name}, which has no place in CIFAR-10; do not trust it, download the set again"
            )
        return known[module, name]


def _read_sheets(folder: Path, sheets: list[Path]) -> tuple[Arrays, Arrays]:
    try:
        with np.load(folder / "labels.npz", allow_pickle=False) as labels:
            train_labels, test_labels = labels["train"], labels["test"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FlexgroupError(
            f"data file {folder / 'labels.npz'}: not a NumPy archive with the arrays train and test "
            f"({error}); copy it again"
        ) from error
    for split, array in (("train", train_labels), ("test", test_labels)):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise FlexgroupError(
                f"data file {folder / 'labels.npz'}: {split} is {array.dtype} {array.shape}; need a list of "
                "whole numbers"
            )
    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter lock
        *train, test = pool.map(_read_sheet, [*sheets, folder / "test.webp"])
    return (np.concatenate(train), train_labels), (test, test_labels)


def _read_sheet(file: Path) -> Images:
    """The tiles of one sheet, row by row, as (N, 3, 32, 32)."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise FlexgroupError(
            f"data file {file}: reading WebP needs Pillow; install it: pip install 'flexgroup[data]'"
        ) from error
    try:
        with Image.open(file) as image:
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise FlexgroupError(f"data file {file}: not a complete image ({error}); copy it again") from error
    height, width, _ = sheet.shape
    if height % SIDE or width % SIDE:
        raise FlexgroupError(
            f"data file {file}: {width}x{height} pixels do not divide into tiles of {SIDE}x{SIDE}; copy it again"
        )
    tiles = sheet.reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3)
    return np.ascontiguousarray(tiles.transpose(0, 2, 4, 1, 3)).reshape(-1, 3, SIDE, SIDE)
