"""What was measured, as tables, plots and one self-contained page; and how it is measured."""

from flexgroup.report._peers import has_onnxruntime, onnxruntime_session, torch_session, torch_threads
from flexgroup.report._timing import Timing, interleaved

__all__ = [
    "Timing",
    "has_onnxruntime",
    "interleaved",
    "onnxruntime_session",
    "torch_session",
    "torch_threads",
]
