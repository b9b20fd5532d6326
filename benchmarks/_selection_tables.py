"""The tables of ``selection.py``, with the limits that its figures are held against."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

LIMITS = {"exact_s": 0.5, "programme_ratio": 100, "bed_ratio": 1, "memory_ratio": 1, "training_percent": 2, "gap": 0.03}
STEPS, BATCH = 50, 128


def table(title: str, *columns: str) -> Table:
    made = Table(title=title)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    return made


def show_speed(console: Console, result: dict[str, Any]) -> None:
    made = table(
        f"ResNet-50's shapes, {result['weights']:,} weights, {result['groups']}, one budget: seconds "
        f"(median of {result['rounds']})",
        *("keep", "exact", "limit", "BED", "greedy", "BED / exact", "dyn. programme *", "/ exact", "limit"),
    )
    for row in result["shares"]:
        times, slow = row["seconds"], row["dynamic_programme"]
        made.add_row(
            f"{row['keep']:.0%}",
            f"{times['exact']:.3f}",
            f"{LIMITS['exact_s']}",
            f"{times['bed']:.3f}",
            f"{times['greedy']:.3f}",
            f"{row['times_faster_than_bed']:.1f}",
            f"{slow['extrapolated_seconds']:,.0f}",
            f"{slow['times_faster']:,.0f}",
            f"{LIMITS['programme_ratio']}",
        )
    console.print(made)
    for row in result["shares"]:
        slow, kept = row["dynamic_programme"], row["score_over_exact"]
        rows, columns = slow["measured_shape"]
        console.print(
            f"keep {row['keep']:.0%}: BED keeps {kept['bed']:.4%} of the optimum's score, greedy {kept['greedy']:.4%}; "
            f"* extrapolated from {slow['measured_seconds']:.2f} s measured on one {rows}x{columns} layer, by weights "
            f"x groups; with a budget in each layer {slow['extrapolated_seconds_with_a_budget_in_each_layer']:,.0f} s, "
            f"{slow['times_faster_with_a_budget_in_each_layer']:,.0f} times as long as the exact method"
        )
    firsts, even = result["first_call_seconds"], result["balanced"]
    console.print("first call: " + ", ".join(f"{value:.2f} s ({words})" for words, value in firsts.items()))
    console.print(
        f"balanced (each line keeps {even['keep']:.0%}): exact {even['exact_seconds']:.3f} s, "
        f"the dynamic programme line by line {even['dynamic_programme_seconds']:.2f} s"
    )


def show_scaling(console: Console, results: list[dict[str, Any]]) -> None:
    made = table(
        "scaling: 4x1 unaligned rows, keep 10 %, float32",
        *("weights", "layers", "seconds", "ns a weight", "MB above scores", "MB allowed", "ratio", "limit"),
    )
    for row in results:
        made.add_row(
            f"{row['weights']:,}",
            str(row["layers"]),
            f"{row['seconds']:.3f}",
            f"{row['nanoseconds_a_weight']:.1f}",
            f"{row['bytes_above_scores'] / 1e6:,.0f}",
            f"{row['bytes_allowed'] / 1e6:,.0f}",
            f"{row['memory_ratio']:.2f}",
            str(LIMITS["memory_ratio"]),
        )
    console.print(made)


def show_training(console: Console, results: list[dict[str, Any]]) -> None:
    made = table(
        f"ResNet-20, batch {BATCH}: one choice every {STEPS} steps",
        "type",
        "step ms",
        "choice ms",
        "share %",
        "limit %",
    )
    for row in results:
        times = (f"{1000 * row[key]:.1f}" for key in ("step_seconds", "choice_seconds"))
        made.add_row(row["type"], *times, f"{row['percent_of_50_steps']:.2f}", str(LIMITS["training_percent"]))
    console.print(made)


def show_quality(console: Console, result: dict[str, Any]) -> None:
    made = table(
        f"{result['network']}, {result['weights']:,} weights, 95 % pruned, one budget: share of |weight| kept "
        f"(of fine-grained's {result['fine_grained']:.3f})",
        *("groups", "axis", "aligned", "unaligned", "gain", "BED loses", "greedy loses"),
    )
    for row in result["patterns"]:
        cells = (f"{row[key]:.3f} ({row[key + '_relative']:.1%})" for key in ("aligned", "unaligned"))
        gain = row["unaligned"] / row["aligned"] - 1
        made.add_row(
            row["groups"], row["axis"], *cells, f"{gain:.1%}", f"{row['bed_gap']:.3%}", f"{row['greedy_gap']:.3%}"
        )
    console.print(made)
    for budget, times in result["seconds_4x1_rows"].items():
        console.print(f"4x1 rows, budget {budget}: " + ", ".join(f"{k} {1000 * v:.1f} ms" for k, v in times.items()))
    free = result["free_2x2_at_90_percent"]
    axes = ", ".join(f"{name} {value:.1%}" for name, value in free["bound_relative"].items())
    console.print(
        f"free 2x2 at 90 %: {free['relative']:.1%} of fine-grained ({axes}), gap {free['gap']:.4%} "
        f"(limit {LIMITS['gap']:.0%}), {free['seconds']:.2f} s"
    )
