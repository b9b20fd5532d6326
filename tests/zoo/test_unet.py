"""The segmentation network gives an image of logits as large as its input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.zoo import UNet, input_shape, unet, unet_nearest


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    classes=st.integers(1, 2),
    resize=st.sampled_from(["bilinear", "nearest"]),
)
def test_output_is_as_large_as_the_image(rows, cols, classes, resize):
    model = unet(width=4, num_classes=classes, resize=resize).eval()
    assert model(torch.zeros(1, 3, 16 * rows, 16 * cols)).shape == (1, classes, 16 * rows, 16 * cols)


def test_both_variants_have_the_same_weights_and_differ():
    bilinear, nearest = unet().eval(), unet_nearest().eval()
    nearest.load_state_dict(bilinear.state_dict())
    x = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        assert not torch.allclose(bilinear(x), nearest(x))


def test_the_default_is_small_and_made_for_256():
    assert 1.9e6 < sum(parameter.numel() for parameter in unet().parameters()) < 2.0e6
    assert input_shape("unet") == input_shape("unet_nearest") == (3, 256, 256)


def test_an_image_that_cannot_be_halved_four_times_is_refused():
    with pytest.raises(FlexgroupError, match=r"does not take 40x32 pixels; pad both to multiples of 16"):
        unet(width=2)(torch.zeros(1, 3, 40, 32))


def test_errors_say_what_to_use_instead():
    with pytest.raises(FlexgroupError, match=r"resize 'cubic' is unknown; use 'bilinear' or 'nearest'"):
        UNet(resize="cubic")  # type: ignore[arg-type]
    with pytest.raises(FlexgroupError, match=r"width=0, num_classes=1 is empty; give at least 1 of each"):
        UNet(width=0)
