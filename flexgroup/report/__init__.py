"""What was measured, as tables, plots and one self-contained page; and how it is measured."""

from flexgroup.report._files import write_whole
from flexgroup.report._headline import Headline, headline
from flexgroup.report._html import render, write_report
from flexgroup.report._machine import available_cores, cpu_model, this_machine
from flexgroup.report._peers import has_onnxruntime, onnxruntime_session, torch_session, torch_threads
from flexgroup.report._results import (
    LayerTime,
    Machine,
    MaskPicture,
    Profile,
    Report,
    Run,
    engine_label,
    from_json,
    to_json,
)
from flexgroup.report._roofline import write_roofline
from flexgroup.report._style import check_picture, write_picture
from flexgroup.report._tables import ResultTable, markdown, result_table, rich_table
from flexgroup.report._timing import Timing, interleaved
from flexgroup.report._trace import trace_document, write_trace

__all__ = [
    "Headline",
    "LayerTime",
    "Machine",
    "MaskPicture",
    "Profile",
    "Report",
    "ResultTable",
    "Run",
    "Timing",
    "available_cores",
    "check_picture",
    "cpu_model",
    "engine_label",
    "from_json",
    "has_onnxruntime",
    "headline",
    "interleaved",
    "markdown",
    "onnxruntime_session",
    "render",
    "result_table",
    "rich_table",
    "this_machine",
    "to_json",
    "torch_session",
    "torch_threads",
    "trace_document",
    "write_picture",
    "write_report",
    "write_roofline",
    "write_trace",
    "write_whole",
]
