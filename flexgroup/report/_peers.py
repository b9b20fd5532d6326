"""The engines people would otherwise use, as plain callables to compare with."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]


def onnxruntime_session(
    model: torch.nn.Module | str | Path, example: torch.Tensor, threads: int = 1
) -> Callable[[Array], Any]:
    """The network as ONNX Runtime runs it on the CPU: a callable of one float32 array of ``example``'s shape.

    It returns an array, or a tuple of them for a network of several outputs.

    ``model`` is a torch module, which is exported, or the path of an ONNX file, which runs as it is.

    The session uses ``threads`` threads and all of ONNX Runtime's graph optimizations. Its threads stop
    spinning when a call returns: otherwise they would take the cores from what is timed next in the process.

    Raises `FlexgroupError` if onnxruntime or onnx is not installed, or if the model cannot be exported or run.
    """
    if not has_onnxruntime():
        raise FlexgroupError(
            "cannot compare with ONNX Runtime: onnxruntime or onnx is not installed; pip install 'flexgroup[bench]'"
        )
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = ["CPUExecutionProvider"]
    if isinstance(model, str | Path):
        try:
            session = ort.InferenceSession(str(model), options, providers=providers)
            session.run(None, {session.get_inputs()[0].name: example.numpy()})
        except Exception as error:  # ONNX Runtime raises types of its own
            reason = str(error).strip().partition("\n")[0]
            raise FlexgroupError(
                f"ONNX Runtime does not run {model} on an input of {tuple(example.shape)}: {reason}; "
                "give another --input, or leave ONNX Runtime out of the comparison"
            ) from error
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            _export(model, example, path)
            session = ort.InferenceSession(str(path), options, providers=providers)
    inputs = session.get_inputs()[0].name

    def run(x: Array) -> Any:
        results = session.run(None, {inputs: x})
        return results[0] if len(results) == 1 else tuple(results)

    return run


def has_onnxruntime() -> bool:
    """Whether `onnxruntime_session` can work here; imports nothing."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx"))


def torch_session(model: torch.nn.Module) -> Callable[[torch.Tensor], Any]:
    """The network as PyTorch runs it eagerly, in inference mode, on the threads that `torch_threads` sets."""
    import torch

    model.eval()

    def run(x: torch.Tensor) -> Any:
        with torch.inference_mode():
            return model(x)

    return run


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use ``threads`` threads inside the block, and as many as before after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _export(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write ``path`` with the older exporter, which needs no extra package, or else the newer one."""
    reasons = []
    for dynamo in (False, True):
        try:
            with quiet():
                _onnx_export(model, example, path, dynamo)
            return
        except Exception as error:  # both exporters raise what they like; the user sees both reasons
            reasons.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    raise FlexgroupError(
        f"cannot export {type(model).__name__} to ONNX for input {tuple(example.shape)}: "
        f"TorchScript exporter: {reasons[0]}; dynamo exporter: {reasons[1]}; "
        "leave ONNX Runtime out of the comparison"
    )


def _onnx_export(model: torch.nn.Module, example: torch.Tensor, path: Path, dynamo: bool) -> None:
    import torch

    training = model.training
    model.eval()
    export: Any = torch.onnx.export
    try:
        export(model, (example,), str(path), input_names=["x"], output_names=["y"], dynamo=dynamo)
    finally:
        model.train(training)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters, which print progress and deprecation notes; stdout belongs to our own output."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)
