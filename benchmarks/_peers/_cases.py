"""What is measured: networks with the same random groups for every engine, as files that any engine can start from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from _peers import _onnx
from _peers._onnx import write_onnx
from _peers._tables import variant_name
from flexgroup import Groups, select
from flexgroup.pruning import reestimate_batch_norm
from flexgroup.zoo import build, input_shape, save_weights

ROWS = 4
ALIGNED, UNALIGNED = Groups(f"{ROWS}x1"), Groups(f"{ROWS}x1", unaligned="rows")
BATCH = 4  # images that the batch norms are measured on


@dataclass(frozen=True)
class Case:
    """A network with its share of zeros, and the folder of its files.

    The folder holds ``model.onnx``, ``weights.safetensors``, ``input.npy``, ``output.npy`` (PyTorch's) and
    ``case.json``. Its name ends in a hash of the weights, so that what engines convert can be kept beside it.
    """

    network: str
    sparsity: float
    unaligned: bool
    folder: Path
    rows: int = ROWS  # of a group

    @property
    def variant(self) -> str:
        """As tables name it: "dense", "90 %", "90 % unaligned"."""
        return variant_name(self.sparsity, self.unaligned)


def make_case(network: str, sparsity: float, unaligned: bool, cache: Path, rows: int = ROWS) -> Case:
    """Build a network, prune it at random and write its files under ``cache``, if they are not there yet."""
    model = random_network(network, sparsity, Groups(f"{rows}x1", unaligned="rows" if unaligned else None))
    images = torch.randn(BATCH, *input_shape(network), generator=torch.Generator().manual_seed(1))
    # A network that was just initialised, or lost most of its weights, may put out next to nothing: with the batch
    # norms measured, values are about one in every layer, and a difference between two engines means something.
    reestimate_batch_norm(model, images, batch_size=BATCH)
    name = variant_name(sparsity, unaligned).replace(" % ", "_").replace(" %", "")
    folder = cache / "models" / network / f"{name}-{_fingerprint(model)}"
    case = Case(network, sparsity, unaligned, folder, rows)
    if not (folder / "case.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(case, model, images[:1].clone())
    return case


def random_network(network: str, sparsity: float, groups: Groups) -> nn.Module:
    """A network of the zoo with random weights, and random groups of them zero."""
    torch.manual_seed(0)
    model = build(network).eval()
    if sparsity:
        prune_at_random(model, sparsity, groups)
    return model


def prune_at_random(model: nn.Module, sparsity: float, groups: Groups) -> None:
    """Zero the same share of every layer's weights, in groups that random scores choose.

    The first convolution, depthwise and grouped ones, and the last linear layer stay as they are.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    first = next(name for name, module in layers.items() if isinstance(module, nn.Conv2d))
    last = [name for name, module in layers.items() if isinstance(module, nn.Linear)][-1:]
    rng = np.random.default_rng(0)
    for name, module in layers.items():
        if name in (first, *last) or getattr(module, "groups", 1) > 1:
            continue
        matrix = module.weight.detach().reshape(len(module.weight), -1)
        mask = select({"": rng.random(matrix.shape, dtype=np.float32)}, groups, 1 - sparsity).masks[""]
        with torch.no_grad():
            module.weight.mul_(torch.from_numpy(mask).reshape(module.weight.shape))


def _write(case: Case, model: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        expected = model(x)
    np.save(case.folder / "input.npy", x.numpy())
    np.save(case.folder / "output.npy", expected.numpy())
    save_weights(model, case.folder / "weights.safetensors")
    write_onnx(model, x, case.folder / "model.onnx")
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.ndim > 1}
    zeros = {name: float((tensor == 0).float().mean()) for name, tensor in weights.items()}
    document = {"network": case.network, "sparsity": case.sparsity, "unaligned": case.unaligned, "rows": case.rows}
    partial = case.folder / "case.json.part"
    partial.write_text(json.dumps(document | {"zeros": zeros}, indent=1) + "\n")
    os.replace(partial, case.folder / "case.json")  # last: its presence says that all others are whole


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256(torch.__version__.encode() + Path(_onnx.__file__).read_bytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
