"""Random small networks of activations, gates, resizing and shuffles, for tests of everything that runs networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from tests.engine.networks import randomise

ACTIVATIONS = [
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Tanh, nn.Mish, nn.PReLU, nn.ReLU),
    *(lambda: nn.GELU(approximate="tanh"), lambda: nn.LeakyReLU(0.1), nn.ELU, nn.Softplus, nn.LogSigmoid),
]

KINDS = ["conv", "depthwise", "squeeze", "resize", "shuffle", "enlarge", "adaptive", "norm", "border", "alone"]


class Squeeze(nn.Module):
    """A squeeze-and-excitation block; ``form`` says how it is written, and what it gates."""

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        self.form = form
        kind = nn.Linear if form == "linear" else lambda a, b: nn.Conv2d(a, b, 1)
        self.down, self.up = kind(channels, 3), kind(3, channels)
        self.spatial = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.form == "spatial":
            mean, largest = x.mean(1, keepdim=True), (x * x).mean(1, keepdim=True)
            return x * torch.sigmoid(self.spatial(torch.cat([mean, largest], 1)))
        if self.form == "linear":
            gate = self.up(F.relu(self.down(x.mean((2, 3)))))
            return x * torch.sigmoid(gate)[:, :, None, None]
        gate = self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1))))
        if self.form == "add":
            return x + gate
        if self.form == "largest":
            return x * torch.tanh(gate + x.amax((2, 3), keepdim=True))
        return x * F.hardsigmoid(gate)


class Resized(nn.Module):
    """A convolution at another size, beside the input, as in a U-Net."""

    def __init__(self, channels: int, factor: float, mode: str, align: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.factor, self.mode, self.align = factor, mode, align if mode == "bilinear" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = self.factor if self.factor * min(x.shape[2:]) >= 1 else 1.0
        y = F.interpolate(x, scale_factor=factor, mode=self.mode, align_corners=self.align)
        y = F.interpolate(self.conv(y), size=x.shape[2:], mode=self.mode, align_corners=self.align)
        return torch.cat([x, y], 1)


class Shuffled(nn.Module):
    """Half of the channels through a convolution, then all among each other, as in ShuffleNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels - channels // 2, channels // 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[1] // 2
        kept, y = x[:, :half], F.silu(self.conv(x[:, half:]))
        y = torch.cat([kept, y], 1)
        batch, channels, height, width = y.shape
        return y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Enlarged(nn.Module):
    """Blocks of pixels from channels, by a transposed convolution or a pixel shuffle."""

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        wide = nn.Conv2d(channels, 2 * channels * 4, 1)
        self.layers = {
            "shuffle": nn.Sequential(wide, nn.PixelShuffle(2)),
            "2x2": nn.ConvTranspose2d(channels, 2 * channels, 2, 2),
            "3x3": nn.ConvTranspose2d(channels, 2 * channels, 3, 2, 1, 1),
            "4x4": nn.ConvTranspose2d(channels, 2 * channels, 4, 4),
        }[form]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.layers(x))


@st.composite
def gated_networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """A stack of blocks that ends in an image or in a vector, with its input shape."""
    draw(st.random_module())  # torch's numbers too
    channels = draw(st.integers(2, 6))
    shape = (channels, draw(st.integers(4, 18)), draw(st.integers(4, 18)))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS))
        activation = draw(st.sampled_from(ACTIVATIONS))
        if kind == "conv":
            out = draw(st.integers(2, 20))
            layers += [nn.Conv2d(channels, out, 3, draw(st.integers(1, 2)), 1), nn.BatchNorm2d(out), activation()]
            channels = out
        elif kind == "depthwise":
            layers += [nn.Conv2d(channels, channels, 3, draw(st.integers(1, 2)), 1, groups=channels), activation()]
        elif kind == "squeeze":
            forms = ["conv", "linear", "spatial", "add", "largest"]
            layers.append(Squeeze(channels, draw(st.sampled_from(forms))))
        elif kind == "resize":
            factor = draw(st.sampled_from([0.5, 0.7, 1.6, 2.0, 3.0]))
            layers.append(
                Resized(channels, factor, draw(st.sampled_from(["nearest", "bilinear"])), draw(st.booleans()))
            )
            channels *= 2
        elif kind == "shuffle":
            if channels % 2:
                layers.append(nn.Conv2d(channels, channels + 1, 1))
                channels += 1
            layers.append(Shuffled(channels))
        elif kind == "enlarge" and channels < 20:
            layers.append(Enlarged(channels, draw(st.sampled_from(["shuffle", "2x2", "3x3", "4x4"]))))
            channels *= 2
        elif kind == "norm":
            groups = draw(st.sampled_from([size for size in range(1, channels + 1) if channels % size == 0]))
            layers += [nn.GroupNorm(groups, channels, eps=0.1), activation()]  # little is divided by next to nothing
        elif kind == "border":
            borders = draw(st.tuples(*[st.integers(0, 2)] * 4))
            layers.append(
                draw(
                    st.sampled_from(
                        [nn.ReplicationPad2d(borders), nn.ConstantPad2d(borders, 0.5), nn.ZeroPad2d(borders)]
                    )
                )
            )
        elif kind == "adaptive":
            layers.append(nn.AdaptiveAvgPool2d((draw(st.integers(2, 5)), draw(st.integers(2, 5)))))
        else:
            layers.append(activation())
    if draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 21), draw(st.sampled_from(ACTIVATIONS))()]
    model = nn.Sequential(*layers)
    randomise(model, draw(st.integers(0, 10_000)))
    return model, shape
