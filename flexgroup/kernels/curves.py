"""Functions of one number as vector code without a library call: activations, and what norms are made of.

All are made of four approximations, whose coefficients were fitted for the least largest error in 32 bits: exp and
expm1 by the range reduction of Cody and Waite (1980) and a polynomial, log by a polynomial around one, erf by a
rational function. Errors are a few units in the last place; a NaN stays a NaN, and infinities give what torch gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from llvmlite import ir

from flexgroup.kernels.emit import I32, Kernel

_LEAKY = "leaky_relu_"  # then the bits of the slope, as in graph.ir.leaky_relu

_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
_ROUNDER = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits
_LOWEST, _HIGHEST = -87.33654, 88.72283  # exp of anything between is a normal number

# exp(r) = 1 + r + r^2 q(r) for |r| <= ln 2 / 2, to 3e-9; q from its highest power on.
_EXP = (0.001381454048987136, 0.008368745117456475, 0.04166839077803102, 0.1666652039895038, 0.4999999343215153)

# log(1 + f) = f - f^2 / 2 + f^3 q(f) for sqrt(1/2) <= 1 + f <= sqrt(2), to 6e-9; q from its highest power on.
_LOG = (
    *(-0.07634496528419442, 0.127615770447716, -0.13160182395743783, 0.14201757999182393),
    *(-0.1662335734371651, 0.20001226876372996, -0.250008210343454, 0.33333331707700087),
)
_ROOT_HALF_BITS, _FRACTION = 0x3F3504F3, 23  # of sqrt(1/2), and those below a number's exponent
_SMALLEST = 2.0**-126  # that has all its digits

# erf(x) = x p(x^2) / q(x^2) for |x| <= 4, to 2.5e-8, from the highest powers on; beyond, erf rounds to 1 or -1.
_ERF_END = 4.0
_ERF_P = (
    *(1.9867841864661915e-06, 0.00028456605960067155, 0.0038833445774745213),
    *(0.053101747038587166, 0.19354505608173067, 1.1283791393446974),
)
_ERF_Q = (
    *(3.742020249082044e-05, 0.0011855715755504043, 0.015207251823860917),
    *(0.1153499993284076, 0.5048573957077414, 1.0),
)

_SIGN, _MAGNITUDE = -0x80000000, 0x7FFFFFFF


def emit_curve(k: Kernel, kind: str, x: ir.Value) -> ir.Value:
    """The curve called ``kind`` of every lane of ``x``; "" is x itself. Raises `KeyError` for names that are none."""
    if not kind:
        return x
    given, floats = x.type, _floats(k)
    # The approximations are made for 32 bits.
    x = x if given == floats else k.builder.fpext(x, floats)
    value = _leaky_relu(k, kind, x) if kind.startswith(_LEAKY) else _CURVES[kind](k, x)
    return value if given == floats else k.builder.fptrunc(value, given)


def emit_exp(k: Kernel, x: ir.Value) -> ir.Value:
    """``exp(x)`` of vectors of 32-bit numbers; results below the smallest normal number are zero."""
    b = k.builder
    shifted, power = _reduced(k, k.clamp(x, number(k, _LOWEST), number(k, _HIGHEST)))
    result = _bits(k, b.add(_integer(k, power), _exponent(k, shifted)))
    result = b.select(b.fcmp_ordered("<", x, number(k, _LOWEST)), number(k, 0.0), result)
    # Unordered: of a NaN as well.
    beyond = b.fcmp_unordered(">", x, number(k, _HIGHEST))
    return b.select(beyond, b.fadd(x, number(k, float("inf"))), result)


def emit_log(k: Kernel, x: ir.Value) -> ir.Value:
    """``log(x)`` of vectors of 32-bit numbers: minus infinity of zero, NaN of what is below."""
    b = k.builder
    short = b.fcmp_ordered("<", x, number(k, _SMALLEST))
    whole = b.select(short, b.fmul(x, number(k, 2.0**_FRACTION)), x)
    # whole = 2^n (1 + f)
    n = b.ashr(b.sub(_integer(k, whole), _mask(k, _ROOT_HALF_BITS)), _mask(k, _FRACTION))
    f = b.fsub(_bits(k, b.sub(_integer(k, whole), b.shl(n, _mask(k, _FRACTION)))), number(k, 1.0))
    power = b.sitofp(b.select(short, b.sub(n, _mask(k, _FRACTION)), n), _floats(k))
    square = b.fmul(f, f)
    tail = k.fma(b.fmul(f, square), _polynomial(k, _LOG, f), b.fmul(square, number(k, -0.5)))
    result = k.fma(power, number(k, _LN2_HIGH), b.fadd(f, k.fma(power, number(k, _LN2_LOW), tail)))
    zero, infinity = number(k, 0.0), number(k, float("inf"))
    result = b.select(b.fcmp_ordered("<", x, infinity), result, x)
    result = b.select(b.fcmp_ordered("<", x, zero), number(k, float("nan")), result)
    return b.select(b.fcmp_ordered("==", x, zero), number(k, float("-inf")), result)


def number(k: Kernel, value: float) -> ir.Value:
    """``value``, rounded to 32 bits, in every lane."""
    return ir.Constant(_floats(k), [float(np.float32(value))] * k.lanes)


def _sigmoid(k: Kernel, x: ir.Value) -> ir.Value:
    return k.builder.fdiv(number(k, 1.0), _one_more(k, emit_exp(k, _negative(k, x))))


def _silu(k: Kernel, x: ir.Value) -> ir.Value:
    return k.builder.fdiv(x, _one_more(k, emit_exp(k, _negative(k, x))))


def _hard_swish(k: Kernel, x: ir.Value) -> ir.Value:
    b = k.builder
    share = k.clamp(b.fadd(x, number(k, 3.0)), number(k, 0.0), number(k, 6.0))
    return b.fmul(b.fmul(x, share), number(k, 1 / 6))


def _tanh(k: Kernel, x: ir.Value) -> ir.Value:
    """``-e / (e + 2)`` with e = expm1(-2 |x|), and the sign of x: exact near zero, 1 at the ends."""
    b = k.builder
    size = _bits(k, b.and_(_integer(k, x), _mask(k, _MAGNITUDE)))
    doubled = k.clamp(b.fmul(size, number(k, -2.0)), number(k, -20.0), number(k, 0.0))
    e = _expm1(k, doubled)
    result = b.fdiv(e, b.fadd(e, number(k, 2.0)))
    return _signed(k, result, x)


def _gelu(k: Kernel, x: ir.Value) -> ir.Value:
    b = k.builder
    half = b.fmul(x, number(k, 0.5))
    return b.fmul(half, _one_more(k, _erf(k, b.fmul(x, number(k, np.sqrt(0.5))))))


def _gelu_tanh(k: Kernel, x: ir.Value) -> ir.Value:
    """``x / 2 * (1 + tanh(u))`` is ``x * sigmoid(2 u)``, with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    b = k.builder
    factor = -2 * np.sqrt(2 / np.pi)
    cubic = k.fma(b.fmul(x, x), number(k, factor * 0.044715), number(k, factor))
    return b.fdiv(x, _one_more(k, emit_exp(k, b.fmul(x, cubic))))


def _mish(k: Kernel, x: ir.Value) -> ir.Value:
    """``x tanh(log(1 + e))`` is ``x n / (n + 2)``, with e = exp(x) and n = e (e + 2); the factor is 1 from 20 on."""
    b, two = k.builder, number(k, 2.0)
    e = emit_exp(k, b.select(b.fcmp_ordered(">", x, number(k, 20.0)), number(k, 20.0), x))
    n = b.fmul(e, b.fadd(e, two))
    return b.fmul(x, b.fdiv(n, b.fadd(n, two)))


def _softplus(k: Kernel, x: ir.Value) -> ir.Value:
    """``max(x, 0) + log(1 + e)`` with e = exp(-|x|), and what u = 1 + e loses of e added to log(u)."""
    b = k.builder
    e = emit_exp(k, _bits(k, b.or_(_integer(k, x), _mask(k, _SIGN))))
    u = _one_more(k, e)
    lost = b.fdiv(b.fsub(e, b.fsub(u, number(k, 1.0))), u)
    positive = b.select(b.fcmp_ordered(">", x, number(k, 0.0)), x, number(k, 0.0))
    return b.fadd(positive, b.fadd(emit_log(k, u), lost))


def _leaky_relu(k: Kernel, kind: str, x: ir.Value) -> ir.Value:
    b = k.builder
    slope = float(np.uint32(int(kind.removeprefix(_LEAKY), 16)).view(np.float32))
    return b.select(b.fcmp_ordered(">", x, number(k, 0.0)), x, b.fmul(x, number(k, slope)))


def _reciprocal(k: Kernel, x: ir.Value) -> ir.Value:
    return k.builder.fdiv(number(k, 1.0), x)


def _reduced(k: Kernel, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """x = n ln 2 + r: n in the low bits of the first result, ``exp(r)`` in the second."""
    b = k.builder
    shifted, r, tail = _remainder(k, x)
    return shifted, b.fadd(k.fma(b.fmul(r, r), tail, r), number(k, 1.0))


def _expm1(k: Kernel, x: ir.Value) -> ir.Value:
    """``exp(x) - 1`` for -20 <= x <= 0: with s = 2^n, ``s (exp(r) - 1) + (s - 1)``."""
    b = k.builder
    shifted, r, tail = _remainder(k, x)
    scale = _bits(k, b.add(_integer(k, number(k, 1.0)), _exponent(k, shifted)))
    return k.fma(scale, k.fma(b.fmul(r, r), tail, r), b.fsub(scale, number(k, 1.0)))


def _remainder(k: Kernel, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """What is shifted so that n is in its low bits, r, and q(r)."""
    b = k.builder
    shifted = k.fma(x, number(k, _LOG2E), number(k, _ROUNDER))
    n = b.fsub(shifted, number(k, _ROUNDER))
    r = k.fma(n, number(k, -_LN2_LOW), k.fma(n, number(k, -_LN2_HIGH), x))
    return shifted, r, _polynomial(k, _EXP, r)


def _erf(k: Kernel, x: ir.Value) -> ir.Value:
    b = k.builder
    size = _bits(k, b.and_(_integer(k, x), _mask(k, _MAGNITUDE)))
    square = b.fmul(x, x)
    ratio = b.fdiv(b.fmul(x, _polynomial(k, _ERF_P, square)), _polynomial(k, _ERF_Q, square))
    return b.select(b.fcmp_ordered(">", size, number(k, _ERF_END)), _signed(k, number(k, 1.0), x), ratio)


def _polynomial(k: Kernel, coefficients: tuple[float, ...], x: ir.Value) -> ir.Value:
    """Horner's rule, from the highest power on."""
    value = number(k, coefficients[0])
    for coefficient in coefficients[1:]:
        value = k.fma(value, x, number(k, coefficient))
    return value


def _one_more(k: Kernel, x: ir.Value) -> ir.Value:
    return k.builder.fadd(x, number(k, 1.0))


def _negative(k: Kernel, x: ir.Value) -> ir.Value:
    return _bits(k, k.builder.xor(_integer(k, x), _mask(k, _SIGN)))


def _signed(k: Kernel, size: ir.Value, sign: ir.Value) -> ir.Value:
    """The magnitude of ``size`` with the sign of ``sign``."""
    b = k.builder
    magnitude = b.and_(_integer(k, size), _mask(k, _MAGNITUDE))
    return _bits(k, b.or_(magnitude, b.and_(_integer(k, sign), _mask(k, _SIGN))))


def _exponent(k: Kernel, shifted: ir.Value) -> ir.Value:
    """n, from the low bits, as what 2^n adds to a number's exponent."""
    return k.builder.shl(_integer(k, shifted), _mask(k, 23))


def _mask(k: Kernel, value: int) -> ir.Value:
    return ir.Constant(ir.VectorType(I32, k.lanes), [value] * k.lanes)


def _integer(k: Kernel, x: ir.Value) -> ir.Value:
    return k.builder.bitcast(x, ir.VectorType(I32, k.lanes))


def _bits(k: Kernel, x: ir.Value) -> ir.Value:
    return k.builder.bitcast(x, _floats(k))


def _floats(k: Kernel) -> ir.VectorType:
    return ir.VectorType(ir.FloatType(), k.lanes)


_CURVES: Mapping[str, Callable[[Kernel, ir.Value], ir.Value]] = {
    "sigmoid": _sigmoid,
    "silu": _silu,
    "hard_swish": _hard_swish,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "softplus": _softplus,
    "exp": emit_exp,
    "log": emit_log,
    "sqrt": Kernel.sqrt,
    "reciprocal": _reciprocal,
    "erf": _erf,
}
