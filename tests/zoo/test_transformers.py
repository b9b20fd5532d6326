"""The transformers compute what their papers say, under the names of the public checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flexgroup import FlexgroupError
from flexgroup.zoo import Encoder, VisionTransformer, encoder, input_shape, vit_tiny


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """(tokens, features) each; head by head."""
    parts = []
    for q, k, v in zip(*(matrix.chunk(heads, dim=1) for matrix in (query, key, value)), strict=True):
        parts.append(torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1) @ v)
    return torch.cat(parts, dim=1)


def test_attention_of_the_vision_transformer_is_that_of_the_paper():
    layer, x = vit_tiny().blocks[0].attn, torch.randn(1, 5, 192)
    query, key, value = (x[0] @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=1)
    assert torch.allclose(layer(x)[0], layer.proj(attention(query, key, value, 3)), atol=1e-5)


def test_attention_of_the_encoder_is_that_of_the_paper():
    layer, x = encoder().layer[0].attention["self"], torch.randn(1, 5, 384)
    expected = attention(layer.query(x[0]), layer.key(x[0]), layer.value(x[0]), 12)
    assert torch.allclose(layer(x)[0], expected, atol=1e-5)


def test_the_vision_transformer_reads_the_class_token_of_whole_images():
    model = vit_tiny(num_classes=7).eval()
    assert model(torch.randn(2, 3, 224, 224)).shape == (2, 7)
    assert model.pos_embed.shape == (1, 14 * 14 + 1, 192)


@pytest.mark.parametrize("tokens", [1, 9, 128])
def test_the_encoder_keeps_the_shape_for_any_number_of_tokens(tokens):
    assert encoder().eval()(torch.randn(2, tokens, 384)).shape == (2, tokens, 384)
    assert input_shape("encoder") == (128, 384)


def test_the_order_of_the_tokens_is_theirs_alone():
    model, x = encoder().eval(), torch.randn(1, 6, 384)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.inference_mode():
        assert torch.allclose(model(x[:, order]), model(x)[:, order], atol=1e-5)


def test_the_encoders_weights_have_the_names_of_bert():
    own = encoder().state_dict().keys()
    stems = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    stems += ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
    assert own == {f"layer.{i}.{stem}.{kind}" for i in range(6) for stem in stems for kind in ("weight", "bias")}


def test_errors_say_what_does_not_divide():
    with pytest.raises(FlexgroupError, match=r"side=225, .* does not divide evenly; make side a multiple of patch"):
        VisionTransformer(side=225, features=8, depth=1, heads=2)
    with pytest.raises(FlexgroupError, match=r"10 features does not divide into 4 heads"):
        Encoder(features=10, heads=4)
