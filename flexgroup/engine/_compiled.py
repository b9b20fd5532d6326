"""`compile`: from a torch module or an ONNX file to a callable that runs native code, checked on the way."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.engine._agreement import agrees, difference, tolerance_of
from flexgroup.engine._calibrate import machine_costs
from flexgroup.engine._calls import first_image, input_arrays, results_like
from flexgroup.engine._chains import partition
from flexgroup.engine._choose import Chooser, choose
from flexgroup.engine._costs import Costs, default_costs
from flexgroup.engine._explain import Explanation, Memory, explain_plan, memory_of
from flexgroup.engine._in_place import take_pieces, take_places
from flexgroup.engine._kept import GRAPH, PLAN, Keys, kept, keys_of
from flexgroup.engine._layout import Layout
from flexgroup.engine._lower import Lowering
from flexgroup.engine._machine import measured_machine
from flexgroup.engine._native import Program
from flexgroup.engine._operations import buffers_of
from flexgroup.engine._plan import Plan, Port
from flexgroup.engine._precision import advice, check_range, element_for, precision_of, with_conversions
from flexgroup.engine._predict import predicted_seconds
from flexgroup.engine._profile import Profile, profile_rows
from flexgroup.engine._regions import find_regions, pieces
from flexgroup.engine._sharing import ragged, sharing
from flexgroup.engine._steps import StepBuilder
from flexgroup.engine._winograd import transformed
from flexgroup.engine._workers import address
from flexgroup.graph.ir import Graph
from flexgroup.kernels import F32, Element, Target, host_target, target_named

if TYPE_CHECKING:
    import torch

TRACED_ROUNDS = 9


def plan_graph(
    graph: Graph,
    target: Target,
    *,
    threads: int = 1,
    sparse: bool = True,
    chooser: Chooser | None = None,
    costs: Costs | None = None,
    element: Element = F32,
) -> Plan:
    """Lay out and pack a graph for a target: a plan, which is data only.

    ``sparse=False`` runs every convolution as dense code, zeros or not: the baseline of a speed-up. ``chooser`` picks
    the kernel of every convolution, by default the cheapest at ``costs``, which are the target's defaults unless given.
    ``element`` is how activations and weights are stored and computed with. Raises `FlexgroupError` for networks that
    it is too narrow for.
    """
    if element.bytes < F32.bytes:
        check_range(graph)
    costs = with_conversions(costs or default_costs(target), element)
    layout = Layout(target.lanes(element), element.bytes, threads)
    lowering = Lowering(graph, layout, has_depthwise=bool(target.triple))
    lowering.run()
    layout.decide()
    builder = StepBuilder(
        layout,
        target,
        element,
        threads=threads,
        sparse=sparse,
        inputs=len(graph.inputs),
        chooser=chooser or functools.partial(choose, costs=costs),
        costs=costs,
    )
    operations = transformed(builder, lowering.operations) if chooser is None else lowering.operations
    operations, chains = partition(builder, operations)
    layout.set_lives([buffers_of(operation) for operation in operations])
    regions = find_regions(builder, operations, chains)
    chains = [chain for chain in chains if not any(each.first <= chain.first < each.last for each in regions)]
    for chain in chains:
        layout.open_windows(chain.capacities(threads), chain.first, chain.last)
    for region in regions:
        take_pieces(layout, region)
        layout.open_pieces(pieces(layout, region), region.first, region.last)
    shared = sharing(layout, operations, chains) if target.triple else {}
    shared = take_places(builder, operations, chains, regions, shared)
    together = [(chain.first, chain.last) for chain in chains]
    for first, last in (*together, *(stretch for region in regions for stretch in region.stretches)):
        layout.use_together(first, last)
    layout.ragged = ragged(layout, shared)
    layout.place(shared)
    steps = tuple(builder.build_all(operations, chains, regions, shared))
    ports = [tuple(Port(name, graph.shapes[name]) for name in names) for names in (graph.inputs, graph.outputs)]
    return Plan(
        target,
        element,
        threads,
        ports[0],
        ports[1],
        steps,
        builder.constants.block(),
        builder.arena_bytes,
        layout.clear_bytes,
        graph.keys,
    )


class CompiledModel:
    """A network in native code: call it with what the module took, any batch size.

    Torch tensors in give torch tensors out; numpy arrays give numpy arrays: one, a tuple of them, or a dict, as the
    module returns them. A model may be called from several Python threads; calls run one after another.
    """

    def __init__(self, plan: Plan, error: float) -> None:
        self.plan = plan
        self.error = error
        """Largest difference to torch, in fp32, on the example, relative to the largest output."""
        self._program = Program(plan)

    def __call__(self, *inputs: Any) -> Any:
        """Run the network on a batch; raises `FlexgroupError` for wrong shapes or element types."""
        return results_like(inputs, self._run(input_arrays(self.plan.inputs, inputs)), self.plan.keys)

    def _run(self, arrays: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        images = len(arrays[0])
        results = [np.empty((images, *port.shape), dtype=np.float32) for port in self.plan.outputs]
        self._program.run([address(array) for array in (*arrays, *results)], images)
        return results

    def profile(self, *inputs: Any, rounds: int = 50) -> Profile:
        """Time every layer on the first image of ``inputs``: medians over ``rounds`` runs, in milliseconds.

        Rates stand beside what this machine can do, which is measured (in less than a second) if it never was.
        Raises `FlexgroupError` as a call does.
        """
        arrays = first_image(self.plan.inputs, inputs)
        results = [np.empty((1, *port.shape), dtype=np.float32) for port in self.plan.outputs]
        pointers = [address(array) for array in (*arrays, *results)]
        (first,) = self._program.time_steps(pointers, 1)
        self._program.time_steps(pointers, 2)
        seconds = self._program.time_steps(pointers, rounds)
        traced = self._program.trace_steps(pointers, min(rounds, TRACED_ROUNDS))
        return profile_rows(self.plan, seconds, first=first, traced=traced, machine=measured_machine())

    @property
    def precision(self) -> str:
        """How activations and weights are stored: "fp32" or "fp16"."""
        return precision_of(self.plan.element)

    @property
    def memory(self) -> Memory:
        """Bytes of activations and of constants (weights and tables) that this network holds."""
        return memory_of(self.plan)

    @property
    def predicted_seconds(self) -> float:
        """Seconds of one image on this network's threads, as the cost model predicts them; 0 on other machines' code.

        Measures what this machine can do (in less than a second) if it never was.
        """
        return predicted_seconds(self.plan)

    def explain(self) -> Explanation:
        """For every layer what was chosen and why, and what is computed in which precision."""
        return explain_plan(self.plan, self.error)

    def close(self) -> None:
        """Stop the worker threads. The model cannot be called afterwards."""
        self._program.close()


def compile(
    model: torch.nn.Module | str | os.PathLike[str] | bytes,
    example: tuple[torch.Tensor, ...] | None = None,
    *,
    threads: int = 1,
    target: str = "host",
    sparse: bool = True,
    precision: str = "fp32",
    accumulate: str | None = None,
    tolerance: float | None = None,
) -> CompiledModel:
    """Compile ``model`` to native code for this machine, using the zeros in its weights.

    ``model`` is a torch module, or an ONNX file: its path, which ends in ``.onnx``, or its bytes. ``example`` is a
    tuple of inputs, batch first: it fixes every shape but the batch; an ONNX file that declares its sizes needs none.
    ``threads`` cores share each layer; where the caller alone was faster lately, it runs a call alone (small networks,
    cores that share no cache, or one that another program has). ``target`` is "host" or the name of an x86-64 level to
    restrict the code to ("x86-64-avx2", "x86-64"). ``sparse=False`` ignores zeros: dense code from the same engine, to
    compare with.
    ``precision="fp16"`` stores activations and weights in 16 bits; inputs and outputs stay float32. ``accumulate`` is
    what such numbers are multiplied and added in, "fp16" or "fp32"; left out, fp16 where the target has instructions
    for it, and fp32 elsewhere. Long sums are kept in fp32 in any case.
    The result is run on the example and compared with torch in fp32; a difference beyond ``tolerance`` times the
    largest output is an error; by default 1e-4, or 2e-2 in fp16, and more where rounding alone explains it (outputs
    that are tiny beside what they are added from).

    Raises `FlexgroupError` for a model that cannot be exported, operators that are not supported (all of them at once),
    a precision that the target does not have, weights beyond its range, and results that disagree.
    """
    if not isinstance(threads, int) or threads < 1:
        raise FlexgroupError(f"threads={threads!r}; give the number of cores to use, 1 or more")
    chosen = host_target() if target == "host" else target_named(target)
    element = element_for(chosen, precision, accumulate)
    module, inputs = _reference(model, example)
    how: dict[str, Any] = {"threads": threads, "sparse": sparse, "element": element}

    def is_right(compiled: CompiledModel) -> bool:
        with contextlib.ExitStack() as closing:
            closing.callback(compiled.close)
            if agrees(compiled.error, tolerance, module, inputs, element):
                closing.pop_all()
                return True
        return False

    compiled, keys = _compile(module, inputs, chosen, keep=True, **how)
    right = is_right(compiled)
    if keys.plan is not None and not right:
        keys.forget()
        compiled, _ = _compile(module, inputs, chosen, keep=False, **how)
        right = is_right(compiled)
    if not right:
        raise FlexgroupError(
            f"the compiled network differs from torch by {compiled.error:.2e} of the largest output on the example, "
            f"more than tolerance={tolerance_of(element) if tolerance is None else tolerance:g}; {advice(element)}"
        )
    return compiled


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Python's collector of cycles waits: it would go through all of torch's objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _reference(model: Any, example: Any) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The module that says what is right, and the example as a tuple: random for files and graphs that need none."""
    from flexgroup.graph import GraphModule, is_onnx, read_network

    if is_onnx(model) or isinstance(model, GraphModule) or example is None:
        _, module, inputs = read_network(model, example)
        return module, inputs
    return model, (example,) if hasattr(example, "detach") else example


@_collector_at_rest()
def _compile(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    target: Target,
    *,
    threads: int,
    sparse: bool,
    element: Element,
    keep: bool,
) -> tuple[CompiledModel, Keys]:
    """The compiled network with its error, and the keys under which its graph and plan are kept if ``keep``."""
    from flexgroup.graph import optimize, read_network

    costs = machine_costs(target)
    how: dict[str, Any] = {"threads": threads, "sparse": sparse, "costs": costs, "element": element}
    keys = keys_of(module, inputs, target, **how) if keep else Keys()

    def graph() -> Graph:
        return kept(GRAPH, keys.graph, lambda: optimize(read_network(module, inputs)[0]), Graph)

    plan = kept(PLAN, keys.plan, lambda: plan_graph(graph(), target, **how), Plan)
    compiled = CompiledModel(plan, 0.0)
    try:
        compiled.error = difference(module, compiled, inputs)
    except BaseException:
        compiled.close()
        raise
    return compiled, keys
