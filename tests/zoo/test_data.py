"""Data sets are the published ones, the same from every layout, and damage is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from flexgroup import FlexgroupError
from flexgroup.zoo import ImageData, load_data

TRAIN = "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"
TEST = "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"


class Small:
    """Random images as they came from the source, (N, 32, 32, 3): three files for training, one for test."""

    def __init__(self, count: int = 6) -> None:
        random = np.random.default_rng(0)
        self.images = [random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for _ in range(4)]
        self.labels = [random.integers(0, 10, count) for _ in range(4)]

    def nchw(self, *parts: int) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([self.images[i] for i in parts]).transpose(0, 3, 1, 2).copy())

    def write_pickles(self, folder: Path, numpy_home: str = "numpy.core") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        names = ["data_batch_1", "data_batch_2", "data_batch_10", "test_batch"]
        for name, images, labels in zip(names, self.images, self.labels, strict=True):
            content = {
                b"batch_label": b"a batch",
                b"labels": [int(label) for label in labels],
                b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1).copy(),
                b"filenames": [b"a.png"] * len(images),
            }
            pickled = pickle.dumps(content, protocol=2)
            home = numpy_home.encode() + b".multiarray\n"
            pickled = pickled.replace(b"numpy.core.multiarray\n", home).replace(b"numpy._core.multiarray\n", home)
            (folder / name).write_bytes(pickled)
        return folder

    def write_sheets(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, images in zip(["train_1", "train_2", "train_10", "test"], self.images, strict=True):
            tiles = images.reshape(2, -1, 32, 32, 3)
            sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(64, -1, 3)
            Image.fromarray(sheet).save(folder / f"{name}.webp", lossless=True)
        np.savez(folder / "labels.npz", train=np.concatenate(self.labels[:3]).astype(np.uint8), test=self.labels[3])
        return folder


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def refusal(folder: Path) -> str:
    with pytest.raises(FlexgroupError) as error:
        load_data(f"cifar10:{folder}")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_decoded_images_are_the_published_ones(cifar10):
    data = cifar10
    for images, digest in ((data.train_images, TRAIN), (data.test_images, TEST)):
        nhwc = images.permute(0, 2, 3, 1).contiguous().numpy()
        assert hashlib.sha256(nhwc.tobytes()).hexdigest() == digest
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.test_labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert data.classes[3] == "cat"


@pytest.mark.parametrize("numpy_home", ["numpy.core", "numpy._core"])
def test_every_layout_gives_the_same_tensors(small, tmp_path, numpy_home):
    folders = [
        small.write_pickles(tmp_path / "official", numpy_home),
        small.write_pickles(tmp_path / "torchvision" / "cifar-10-batches-py", numpy_home).parent,
        small.write_sheets(tmp_path / "sheets"),
    ]
    for folder in folders:
        data = load_data(f"cifar10:{folder}")
        assert torch.equal(data.train_images, small.nchw(0, 1, 2)), "files in the order of their numbers"
        assert torch.equal(data.test_images, small.nchw(3))
        assert data.train_labels.tolist() == np.concatenate(small.labels[:3]).tolist()
        assert data.test_labels.tolist() == small.labels[3].tolist()
        assert data.image_shape == (3, 32, 32)


def test_a_pickle_from_python_2_is_read(small, tmp_path):
    """Byte strings come as SHORT_BINSTRING and BINSTRING there, which Python 3 no longer writes."""
    data = np.arange(2 * 3072, dtype=np.uint8).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I2\nI3072\nt"
        b"cnumpy\ndtype\n(U\x02u1I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntbI00\nT" + len(data).to_bytes(4, "little")
    )
    batch = b"\x80\x02(dU\x04data" + array + data + b"tbsU\x06labels(lI7\naI1\nas."
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(batch)
    read = load_data(f"cifar10:{tmp_path}")
    assert read.test_images.numpy().tobytes() == data
    assert read.test_labels.tolist() == [7, 1]


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_not_executed(small, tmp_path, capsys, protocol):
    small.write_pickles(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"labels": Malicious()}, protocol=protocol))
    message = refusal(tmp_path)
    assert f"data file {tmp_path / 'test_batch'}: it asks for " in message
    assert message.endswith("print, which has no place in CIFAR-10; do not trust it, download the set again")
    assert "executed" not in capsys.readouterr().out


@settings(max_examples=60, deadline=None)
@example(cut=1, at=0, value=80)  # the unpickler's reason has two lines
@example(cut=2, at=0, value=80)
@given(cut=st.integers(0, 10**6), at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_pickle_is_refused_or_harmless(tmp_path_factory, cut, at, value):
    folder = Small(2).write_pickles(tmp_path_factory.mktemp("damaged"))
    content = bytearray((folder / "test_batch").read_bytes())
    content[at % len(content)] = value
    (folder / "test_batch").write_bytes(content)
    with contextlib.suppress(FlexgroupError):
        load_data(f"cifar10:{folder}")
    (folder / "test_batch").write_bytes(content[: cut % len(content)])
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("name", ["test.webp", "train_2.webp"])
def test_a_truncated_sheet_is_refused(small, tmp_path, name):
    file = small.write_sheets(tmp_path) / name
    file.write_bytes(file.read_bytes()[:2000])
    assert f"data file {file}: not a complete image" in refusal(tmp_path)


def test_a_sheet_that_is_no_whole_number_of_tiles_is_refused(small, tmp_path):
    small.write_sheets(tmp_path)
    Image.new("RGB", (40, 64)).save(tmp_path / "test.webp", lossless=True)
    assert "40x64 pixels do not divide into tiles of 32x32" in refusal(tmp_path)


def test_a_missing_sheet_is_noticed_by_the_labels(small, tmp_path):
    (small.write_sheets(tmp_path) / "train_2.webp").unlink()
    assert "there are 12 training images but 18 labels; the files do not belong together" in refusal(tmp_path)


def test_bad_labels_are_refused(small, tmp_path):
    small.write_sheets(tmp_path)
    good = np.concatenate(small.labels[:3])
    np.savez(tmp_path / "labels.npz", train=good, test=np.arange(6) + 9)
    assert "test labels run from 9 to 14; with 10 classes they must lie in 0..9" in refusal(tmp_path)
    np.savez(tmp_path / "labels.npz", train=good, test=np.array([Malicious()] * 6, dtype=object))
    assert "labels.npz: not a NumPy archive with the arrays train and test" in refusal(tmp_path)
    np.savez(tmp_path / "labels.npz", train=good)
    assert "labels.npz: not a NumPy archive with the arrays train and test" in refusal(tmp_path)
    np.savez(tmp_path / "labels.npz", train=good, test=np.zeros((6, 2)))
    assert "test is float64 (6, 2); need a list of whole numbers" in refusal(tmp_path)
    (tmp_path / "labels.npz").write_bytes(b"PK\x03\x04")
    assert "labels.npz: not a NumPy archive" in refusal(tmp_path)


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path):
    message = refusal(tmp_path)
    for word in ("data_batch_1", "test_batch", "cifar-10-batches-py/", "train_1.webp", "labels.npz"):
        assert word in message
    assert "there is no such folder" in refusal(tmp_path / "absent")


@pytest.mark.parametrize("spec", ["mnist", "cifar10", "cifar10:", "digits:x", ""])
def test_an_unknown_data_set_is_answered_with_the_known(spec):
    with pytest.raises(FlexgroupError, match=r"is unknown; choose digits, or cifar10:FOLDER"):
        load_data(spec)


def test_digits_are_always_split_alike_with_classes_in_proportion():
    first, second = load_data("digits"), load_data("digits")
    assert (len(first.train_labels), len(first.test_labels)) == (1297, 500)
    assert torch.equal(first.train_images, second.train_images)
    assert torch.equal(first.test_labels, second.test_labels)
    counts = first.test_labels.bincount()
    assert int(counts.max() - counts.min()) <= 4
    seen = {image.numpy().tobytes() for image in first.train_images}
    assert not any(image.numpy().tobytes() in seen for image in first.test_images)


def test_digits_without_scikit_learn_name_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(FlexgroupError, match=r"needs scikit-learn; install it: pip install 'flexgroup\[demo\]'"):
        load_data("digits")


def test_normalised_training_digits_have_mean_0_and_deviation_1():
    images, labels = load_data("digits").train()
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.std()) == pytest.approx(1, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(pixel=st.integers(0, 255), channel=st.integers(0, 2))
def test_cifar_pixels_are_normalised_by_channel(pixel, channel):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.full((1, 3, 2, 2), pixel, dtype=torch.uint8)
    labels = torch.zeros(1, dtype=torch.int64)
    data = ImageData(images, labels, images, labels, mean, std, ("a",))
    expected = (pixel / 255 - mean[channel]) / std[channel]
    assert data.test()[0][0, channel].flatten().tolist() == pytest.approx([expected] * 4, abs=1e-6)
    assert int(images[0, channel, 0, 0]) == pixel


def test_pixels_are_normalised_where_they_are():
    data = load_data("digits")
    there = data.normalise(data.train_images[:2].to("meta"))  # as on a GPU: nothing of another device may meet it
    assert (there.device.type, there.dtype, there.shape) == ("meta", torch.float32, (2, 1, 8, 8))


def test_images_of_another_type_are_refused():
    images, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(FlexgroupError, match=r"training images are torch.float32 \(1, 3, 2, 2\); need uint8"):
        ImageData(images, labels, images, labels, (0.0,) * 3, (1.0,) * 3, ("a",))


@pytest.mark.parametrize("count", [1, 300, 1296])
def test_images_held_out_are_the_rest_of_the_training_set(count: int) -> None:
    data = load_data("digits")
    rest, images, labels = data.hold_out(count)
    assert len(images) == len(labels) == count
    assert len(rest.train_images) == len(rest.train_labels) == 1297 - count
    together = torch.cat([rest.train_images, images]).flatten(1)
    assert torch.equal(_sorted(together), _sorted(data.train_images.flatten(1)))
    assert torch.equal(rest.test_images, data.test_images)
    again = data.hold_out(count)
    assert torch.equal(again[1], images)
    pairs = {(tuple(i.flatten().tolist()), int(label)) for i, label in zip(images, labels, strict=True)}
    known = zip(data.train_images, data.train_labels, strict=True)
    assert pairs <= {(tuple(image.flatten().tolist()), int(label)) for image, label in known}


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(rows.tolist()))


@pytest.mark.parametrize("count", [0, 1297, -3])
def test_something_must_be_left_to_train_on(count: int) -> None:
    text = rf"{count} of 1297 training images cannot be held out for validation; choose 1 to 1296"
    with pytest.raises(FlexgroupError, match=text):
        load_data("digits").hold_out(count)
