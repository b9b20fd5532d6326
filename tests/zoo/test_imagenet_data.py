"""Photographs with labels come from a folder, for evaluation only, and damage is noticed."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexgroup import FlexgroupError
from flexgroup.cli._eval import run_evaluation
from flexgroup.zoo import build, load_data, normalisation, save_weights

LABELS = {"cat": 3, "dog": 0, "eel": 999}


def write_labels(folder: Path, rows: dict[str, object], header: str = "ImageId,class_index_0_999,License") -> None:
    (folder / "few_labels.csv").write_text("\n".join([header, *(f"{name},{label},x" for name, label in rows.items())]))


def write_images(folder: Path, names: list[str], side: int = 224, mode: str = "RGB") -> None:
    with zipfile.ZipFile(folder / "few.zip", "w") as archive:
        for value, name in enumerate(names):
            Image.new(mode, (side, side), 10 * value if mode == "L" else (10 * value, 1, 2)).save(folder / "image.png")
            archive.write(folder / "image.png", f"images/{name}.png")
    (folder / "image.png").unlink()


@pytest.fixture
def folder(tmp_path) -> Path:
    write_labels(tmp_path, LABELS)
    write_images(tmp_path, ["eel", "cat", "dog"])
    names = [f"{i},n{i:08d},class {i}" for i in range(1000)]
    (tmp_path / "imagenet_classes.csv").write_text("\n".join(["class_index,wnid,name", *names]))
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(FlexgroupError) as error:
        load_data(f"imagenet:{folder}")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_come_in_the_order_of_the_labels(folder):
    data = load_data(f"imagenet:{folder}")
    assert data.test_labels.tolist() == [3, 0, 999]
    assert data.test_images[:, 0, 0, 0].tolist() == [10, 20, 0]
    assert data.test_images[0, :, 5, 7].tolist() == [10, 1, 2]
    assert data.image_shape == (3, 224, 224)
    assert data.classes[3] == "class 3"


def test_grey_photographs_become_three_channels(folder):
    write_images(folder, ["cat", "dog", "eel"], mode="L")
    assert load_data(f"imagenet:{folder}").test_images[1, :, 0, 0].tolist() == [10, 10, 10]


def test_there_are_no_training_images_and_asking_for_them_says_so(folder):
    data = load_data(f"imagenet:{folder}")
    assert len(data.train_labels) == 0
    with pytest.raises(FlexgroupError) as error:
        data.train()
    assert str(error.value) == (
        f"data imagenet:{folder} is for evaluation only and has no training images; "
        "train on digits, cifar10:FOLDER or images of your own"
    )


def test_pixels_are_normalised_as_the_network_wants(folder):
    data = load_data(f"imagenet:{folder}", normalisation("mobilenet_v1"))
    assert float(data.test()[0][0, 0, 0, 0]) == pytest.approx(10 / 127.5 - 1)
    data = load_data(f"imagenet:{folder}")
    assert float(data.test()[0][0, 0, 0, 0]) == pytest.approx((10 / 255 - 0.485) / 0.229, abs=1e-5)


def test_eval_gives_each_network_its_pixels(folder, tmp_path):
    torch.manual_seed(0)
    network = build("mobilenet_v1_025").eval()
    save_weights(network, tmp_path / "net.safetensors")
    images, labels = load_data(f"imagenet:{folder}", normalisation("mobilenet_v1_025")).test()
    with torch.inference_mode():
        best = network(images).argmax(1)
    write_labels(folder, dict(zip(LABELS, best.tolist(), strict=True)))
    result = run_evaluation(
        "mobilenet_v1_025", tmp_path / "net.safetensors", f"imagenet:{folder}", engine="torch", batch_size=2
    )
    assert (result.accuracy, result.images) == (100.0, len(labels))


def test_the_real_photographs_are_all_there(photographs):
    assert photographs.test_images.shape == (1000, 3, 224, 224)
    assert photographs.test_labels[:2].tolist() == [305, 883]
    assert len(photographs.classes) == 1000
    assert photographs.classes[0] == "tench"


def test_what_is_absent_is_named(folder, tmp_path):
    assert "there is no such folder; check the path" in refusal(tmp_path / "absent")
    (folder / "few.zip").rename(folder / "few.tar")
    message = refusal(folder)
    assert "0 files *.zip there" in message
    for word in ("ImageId", "class_index_0_999", "imagenet_classes.csv", "224x224"):
        assert word in message


def test_two_archives_leave_it_open_which(folder):
    (folder / "other.zip").write_bytes(b"")
    assert "2 files *.zip there" in refusal(folder)


def test_a_labelled_image_that_is_missing_is_named(folder):
    write_images(folder, ["cat", "dog"])
    assert "it lacks 1 of the 3 labelled images, eel among them" in refusal(folder)


def test_another_size_is_refused(folder):
    write_images(folder, ["cat", "dog", "eel"], side=100)
    assert "has 100x100 pixels; resize it to 224x224" in refusal(folder)


def test_a_damaged_archive_is_refused(folder):
    content = (folder / "few.zip").read_bytes()
    (folder / "few.zip").write_bytes(content[:-30])
    assert "few.zip: not a complete zip archive" in refusal(folder)


def test_a_damaged_image_is_refused(folder):
    with zipfile.ZipFile(folder / "few.zip", "w") as archive:
        for name in LABELS:
            archive.writestr(f"{name}.webp", np.arange(99, dtype=np.uint8).tobytes())
    assert "is not a complete image" in refusal(folder)


@pytest.mark.parametrize("label", ["-1", "3.5", "cat"])
def test_a_label_that_is_no_index_is_refused(folder, label):
    write_labels(folder, {**LABELS, "dog": label})
    assert f"class_index_0_999 '{label}' is not a whole number" in refusal(folder)


def test_a_label_beyond_the_classes_is_refused(folder):
    write_labels(folder, {**LABELS, "dog": 1000})
    assert "test labels run from 3 to 1000; with 1000 classes they must lie in 0..999" in refusal(folder)


def test_a_table_without_its_columns_is_refused(folder):
    write_labels(folder, LABELS, header="Id,Label,License")
    assert "it has no rows, or some without ImageId and class_index_0_999" in refusal(folder)
    (folder / "few_labels.csv").write_bytes(b"\xff\xfe\x00")
    assert "not a table in CSV" in refusal(folder)


def test_without_pillow_the_remedy_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "needs Pillow; install it: pip install 'flexgroup[data]'" in refusal(folder)
