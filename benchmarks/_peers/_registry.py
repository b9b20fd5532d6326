"""All engines, in the order of the table."""

from __future__ import annotations

from _peers._deepsparse import DeepSparse
from _peers._engine import Engine
from _peers._executorch import ExecuTorch
from _peers._flexgroup import Flexgroup
from _peers._litert import LiteRt
from _peers._mnn import Mnn, MnnSparse
from _peers._ncnn import Ncnn
from _peers._onnxruntime import OnnxRuntime
from _peers._openvino import OpenVino, OpenVinoBf16
from _peers._torch import TorchCompile, TorchEager

OURS = Flexgroup()
PEERS: tuple[Engine, ...] = (
    TorchEager(),
    TorchCompile(),
    OnnxRuntime(),
    OpenVino(),
    OpenVinoBf16(),
    LiteRt(),
    ExecuTorch(),
    Ncnn(),
    Mnn(),
    MnnSparse(),
    DeepSparse(),
)
