"""Photographs with ImageNet labels from files: a zip archive of images, a table of labels, a table of classes."""

from __future__ import annotations

import csv
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError

SIDE = 224
CLASSES_FILE = "imagenet_classes.csv"
IMAGE_COLUMN, LABEL_COLUMN, NAME_COLUMN = "ImageId", "class_index_0_999", "name"

Images: TypeAlias = npt.NDArray[np.uint8]
Labels: TypeAlias = npt.NDArray[np.int64]


def read_imagenet(folder: Path) -> tuple[Images, Labels, tuple[str, ...]]:
    """The labelled photographs in ``folder``: uint8 (N, 3, 224, 224) images, (N,) labels, the classes' names.

    The folder holds one ``*_labels.csv`` (columns ``ImageId`` and ``class_index_0_999``), one ``.zip`` with an image
    file of 224x224 pixels for each ``ImageId``, in any format that Pillow reads, and ``imagenet_classes.csv`` (column
    ``name``, in the order of the class indices). Images come in the order of the labels' table.

    Raises `FlexgroupError` where a file is absent or damaged, or an image is missing or of another size.
    """
    if not folder.is_dir():
        raise FlexgroupError(f"data imagenet:{folder}: there is no such folder; check the path")
    archive, table = _only(folder, "*.zip"), _only(folder, "*_labels.csv")
    classes = tuple(row[NAME_COLUMN] for row in _rows(_only(folder, CLASSES_FILE), NAME_COLUMN))
    rows = _rows(table, IMAGE_COLUMN, LABEL_COLUMN)
    labels = np.array([_label(row[LABEL_COLUMN], table) for row in rows], np.int64)
    return _read_images(archive, [row[IMAGE_COLUMN] for row in rows]), labels, classes


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FlexgroupError(
            f"data imagenet:{folder}: {len(found)} files {pattern} there; it must hold one .zip of "
            f"{SIDE}x{SIDE} images, one *_labels.csv with the columns {IMAGE_COLUMN} and {LABEL_COLUMN}, "
            f"and {CLASSES_FILE}"
        )
    return found[0]


def _rows(file: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a table, each with text in all ``columns``."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlexgroupError(f"data file {file}: not a table in CSV ({error}); copy it again") from error
    if not rows or not all(row.get(column) for row in rows for column in columns):
        raise FlexgroupError(
            f"data file {file}: it has no rows, or some without {' and '.join(columns)}; copy it again"
        )
    return rows


def _label(text: str, file: Path) -> int:
    if not text.isdecimal():
        raise FlexgroupError(f"data file {file}: {LABEL_COLUMN} {text!r} is not a whole number; copy it again")
    return int(text)


def _read_images(archive: Path, names: list[str]) -> Images:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise FlexgroupError(
            f"data file {archive}: reading its images needs Pillow; install it: pip install 'flexgroup[data]'"
        ) from error
    images = np.empty((len(names), 3, SIDE, SIDE), np.uint8)

    def read(job: tuple[int, str]) -> None:
        index, entry = job
        try:
            with Image.open(io.BytesIO(file.read(entry))) as image:
                if image.size != (SIDE, SIDE):
                    raise FlexgroupError(
                        f"data file {archive}: {entry} has {image.size[0]}x{image.size[1]} pixels; "
                        f"resize it to {SIDE}x{SIDE}"
                    )
                images[index] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except (OSError, UnidentifiedImageError, SyntaxError, zipfile.BadZipFile, EOFError) as error:
            raise FlexgroupError(
                f"data file {archive}: {entry} is not a complete image ({error}); copy the archive again"
            ) from error

    try:
        with zipfile.ZipFile(archive) as file, ThreadPoolExecutor(2) as pool:
            list(pool.map(read, enumerate(_entries(archive, file, names))))
    except (OSError, zipfile.BadZipFile) as error:
        raise FlexgroupError(f"data file {archive}: not a complete zip archive ({error}); copy it again") from error
    return images


def _entries(archive: Path, file: Any, names: list[str]) -> list[str]:
    """The archive's entry for each name, whatever its folder and its suffix."""
    by_name = {Path(entry).stem: entry for entry in file.namelist() if not entry.endswith("/")}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise FlexgroupError(
            f"data file {archive}: it lacks {len(missing)} of the {len(names)} labelled images, "
            f"{missing[0]} among them; copy the archive and the labels again"
        )
    return [by_name[name] for name in names]
