"""The loop that runs a plan, as LLVM IR: steps in order, images in order, threads in step.

A job is an array of 64-bit fields (`JOB`). Every thread that takes part calls ``run(job, thread)`` with its own number,
and a barrier after each step keeps them together. One thread alone runs all parts of a step one after another. The code
calls nothing by name: what it needs of the C library comes as addresses in the job.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from flexgroup.kernels import Signature, Target
from flexgroup.kernels.emit import I32, I64, POINTER, Code

JOB = Signature(
    (
        "bases",  # i8*[base_count]: the regions; each thread advances a copy of its own
        "base_count",
        "strides",  # i64[base_count]: bytes a region advances from one image to the next
        "images",
        "steps",  # i64[...]: a step: its kernel's address, whether a barrier follows, an argument block (or 0) a part
        "first",  # steps first..last are run
        "last",
        "parts",  # of a step
        "threads",  # that share them
        "barrier",  # i64[512]: arrivals at [0], generation at [32]; a page, so that nothing else shares their lines
        "yield",  # int sched_yield(void)
        "clock",  # int clock_gettime(int, struct timespec*), or 0
        "ticks",  # i64[2 * (steps + 1)]: (seconds, nanoseconds) before the first step and after each
    )
)

POOL = Signature(
    (
        "job",  # the current job
        "generation",  # grows by one with every job
        "stop",  # not 0: workers return
        "lock",  # pthread_mutex_t*
        "wake",  # pthread_cond_t*
        "mutex_lock",
        "mutex_unlock",
        "cond_wait",
        "cond_broadcast",
        "patience",  # rounds that a worker spins for the next job before it sleeps
    )
)

MAX_REGIONS = 64
BARRIER_FIELDS, GENERATION = 512, 32  # far enough from the arrivals for lines that are fetched in pairs
SPINS_BEFORE_YIELD = 2000

I64_POINTER = I64.as_pointer()
_STEP = ir.FunctionType(ir.VoidType(), [POINTER.as_pointer(), I64_POINTER])
_NO_POINTER, _ONE_POINTER, _TWO_POINTERS = (ir.FunctionType(I32, [POINTER] * n) for n in range(3))
_CLOCK = ir.FunctionType(I32, [I32, POINTER])


def emit_runner(module: ir.Module, target: Target) -> None:
    """Add ``run``, ``submit`` and ``work`` to ``module``."""
    _emit_run(module, target)
    _emit_submit(module, target)
    _emit_work(module, target)


def _pause(k: Code) -> None:
    """Tell the core that this is a waiting loop."""
    family = k.target.triple.split("-")[0]
    if family == "x86_64":
        k.call("llvm.x86.sse2.pause", ir.VoidType(), [])
    elif family in ("aarch64", "arm64"):
        k.call("llvm.aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])  # yield


def _emit_run(module: ir.Module, target: Target) -> None:
    """``run(job, thread)``: all images through steps first..last, this thread's part of each."""
    k = Code(module, "run", target, JOB, [I64_POINTER, I64])
    b, thread = k.builder, k.function.args[1]
    zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
    bases = b.alloca(POINTER, MAX_REGIONS)
    given, strides = k.pointer("bases", POINTER), k.pointer("strides", I64)
    base_count, threads, first, steps = k.arg("base_count"), k.arg("threads"), k.arg("first"), k.pointer("steps", I64)
    parts = k.arg("parts")
    width = b.add(parts, ir.Constant(I64, 2))
    with k.loop(0, base_count) as regions:
        b.store(b.load(b.gep(given, [regions.index])), b.gep(bases, [regions.index]))
    timed = b.and_(b.icmp_signed("!=", k.arg("ticks"), zero), b.icmp_signed("==", thread, zero))

    def stamp(position: ir.Value) -> None:
        with b.if_then(timed, likely=False):
            at = b.gep(k.pointer("ticks", I64), [b.shl(position, one)])
            b.call(k.pointer("clock", _CLOCK), [ir.Constant(I32, 1), b.bitcast(at, POINTER)])  # 1: CLOCK_MONOTONIC

    with k.loop(0, k.arg("images")):
        stamp(zero)
        with k.loop(first, k.arg("last")) as step:
            entry = b.gep(steps, [b.mul(step.index, width)])
            with k.loop(thread, parts, threads) as part:
                mine = b.gep(entry, [b.add(part.index, ir.Constant(I64, 2))])
                with b.if_then(b.icmp_signed("!=", b.load(mine), zero)):
                    kernel = b.load(b.bitcast(entry, _STEP.as_pointer().as_pointer()))
                    b.call(kernel, [bases, b.load(b.bitcast(mine, I64_POINTER.as_pointer()))])
            waits = b.icmp_signed("!=", b.load(b.gep(entry, [one])), zero)
            with b.if_then(b.and_(waits, b.icmp_signed(">", threads, one))):
                _wait_for_all(k, k.pointer("barrier", I64), threads)
            stamp(b.add(b.sub(step.index, first), one))
        with k.loop(0, base_count) as regions:
            slot = b.gep(bases, [regions.index])
            b.store(b.gep(b.load(slot), [b.load(b.gep(strides, [regions.index]))]), slot)
    b.ret_void()


def _wait_for_all(k: Code, barrier: ir.Value, threads: ir.Value) -> None:
    """A central barrier: the last thread to arrive starts the next generation, the others wait for it."""
    b = k.builder
    one, zero = ir.Constant(I64, 1), ir.Constant(I64, 0)
    generation = b.gep(barrier, [ir.Constant(I64, GENERATION)])
    before = b.load_atomic(generation, "acquire", 8)
    arrived = b.add(b.atomic_rmw("add", barrier, one, "acq_rel"), one)
    with b.if_else(b.icmp_signed("==", arrived, threads)) as (last, others):
        with last:
            b.store_atomic(zero, barrier, "monotonic", 8)
            b.store_atomic(b.add(before, one), generation, "release", 8)
        with others:
            _spin(k, lambda: b.icmp_signed("!=", b.load_atomic(generation, "acquire", 8), before), yielding=True)


def _spin(k: Code, ready: Callable[[], ir.Value], *, yielding: bool, limit: ir.Value | None = None) -> None:
    """Wait until ``ready()``; give the core away after a while, or give up after ``limit`` rounds."""
    b = k.builder
    before = b.block
    head, body, done = (b.append_basic_block(name) for name in ("spin", "wait", "ready"))
    b.branch(head)
    b.position_at_end(head)
    count = b.phi(I64)
    count.add_incoming(ir.Constant(I64, 0), before)
    stop = ready()
    if limit is not None:
        stop = b.or_(stop, b.icmp_signed(">=", count, limit))
    b.cbranch(stop, done, body)
    b.position_at_end(body)
    _pause(k)
    if yielding:
        with b.if_then(b.icmp_signed(">", count, ir.Constant(I64, SPINS_BEFORE_YIELD)), likely=False):
            b.call(k.pointer("yield", _NO_POINTER), [])
    count.add_incoming(b.add(count, ir.Constant(I64, 1)), b.block)
    b.branch(head)
    b.position_at_end(done)


def _emit_submit(module: ir.Module, target: Target) -> None:
    """``submit(pool, job)``: hand ``job`` to the workers and run it as thread 0."""
    k = Code(module, "submit", target, POOL, [I64_POINTER, I64_POINTER])
    b, job = k.builder, k.function.args[1]
    lock = k.pointer("lock")
    b.call(k.pointer("mutex_lock", _ONE_POINTER), [lock])
    b.store(job, b.bitcast(k.field("job"), I64_POINTER.as_pointer()))
    generation = k.field("generation")
    b.store_atomic(b.add(b.load(generation), ir.Constant(I64, 1)), generation, "release", 8)
    b.call(k.pointer("cond_broadcast", _ONE_POINTER), [k.pointer("wake")])
    b.call(k.pointer("mutex_unlock", _ONE_POINTER), [lock])
    b.call(module.get_global("run"), [job, ir.Constant(I64, 0)])
    b.ret_void()


def _emit_work(module: ir.Module, target: Target) -> None:
    """``work(pool, thread)``: what a worker does until it is told to stop: wait for a job, run its part."""
    k = Code(module, "work", target, POOL, [I64_POINTER, I64])
    b, thread = k.builder, k.function.args[1]
    generation, lock = k.field("generation"), k.pointer("lock")
    wait, asleep, check, sleep, awake, job, run, done = (
        b.append_basic_block(name) for name in ("wait", "asleep", "check", "sleep", "awake", "job", "run", "stopped")
    )
    start = b.block
    b.branch(wait)
    b.position_at_end(wait)
    seen = b.phi(I64)
    seen.add_incoming(ir.Constant(I64, 0), start)

    def fresh() -> ir.Value:
        return b.icmp_signed("!=", b.load_atomic(generation, "acquire", 8), seen)

    _spin(k, fresh, yielding=False, limit=k.arg("patience"))
    b.cbranch(fresh(), job, asleep)

    b.position_at_end(asleep)
    b.call(k.pointer("mutex_lock", _ONE_POINTER), [lock])
    b.branch(check)
    b.position_at_end(check)
    b.cbranch(fresh(), awake, sleep)
    b.position_at_end(sleep)
    b.call(k.pointer("cond_wait", _TWO_POINTERS), [k.pointer("wake"), lock])
    b.branch(check)
    b.position_at_end(awake)
    b.call(k.pointer("mutex_unlock", _ONE_POINTER), [lock])
    b.branch(job)

    b.position_at_end(job)
    now = b.load_atomic(generation, "acquire", 8)
    b.cbranch(b.icmp_signed("!=", k.arg("stop"), ir.Constant(I64, 0)), done, run)
    b.position_at_end(run)
    b.call(module.get_global("run"), [k.pointer("job", I64), thread])
    seen.add_incoming(now, b.block)
    b.branch(wait)
    b.position_at_end(done)
    b.ret_void()
