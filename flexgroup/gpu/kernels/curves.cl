// Activation functions. Build option CURVE names one of them, if there is any; SLOPE holds the bits of leaky relu's
// slope. Names are in capitals: tanh may be a macro of the compiler's own.

#ifndef CURVE
#define CURVE NONE
#endif

static inline VECTOR curve_NONE(VECTOR x) { return x; }
static inline VECTOR curve_SIGMOID(VECTOR x) { return 1 / (1 + exp(-x)); }
static inline VECTOR curve_SILU(VECTOR x) { return x / (1 + exp(-x)); }
static inline VECTOR curve_EXP(VECTOR x) { return exp(x); }
static inline VECTOR curve_ERF(VECTOR x) { return erf(x); }
static inline VECTOR curve_LOG(VECTOR x) { return log(x); }
static inline VECTOR curve_SOFTPLUS(VECTOR x) { return fmax(x, (VECTOR)(0)) + log1p(exp(-fabs(x))); }
static inline VECTOR curve_SQRT(VECTOR x) { return sqrt(x); }
static inline VECTOR curve_RECIPROCAL(VECTOR x) { return 1 / x; }
static inline VECTOR curve_TANH(VECTOR x) { return tanh(x); }
static inline VECTOR curve_GELU(VECTOR x) { return x / 2 * (1 + erf(x * (ELEMENT)0.70710678118654752)); }

static inline VECTOR curve_HARD_SWISH(VECTOR x) {
    VECTOR share = x + 3;
    share = share < 0 ? (VECTOR)(0) : share;
    return x * (share > 6 ? (VECTOR)(6) : share) / 6;
}

// x / 2 * (1 + tanh(u)) is x * sigmoid(2 u).
static inline VECTOR curve_GELU_TANH(VECTOR x) {
    const VECTOR u = x * ((ELEMENT)0.79788456080286536 + (ELEMENT)0.035677408136300125 * x * x);
    return x / (1 + exp(-2 * u));
}

// x * tanh(log(1 + e)) is x * n / (n + 2), with e = exp(x) and n = e * (e + 2); the factor is 1 from 20 on.
static inline VECTOR curve_MISH(VECTOR x) {
    const VECTOR e = exp(x > 20 ? (VECTOR)(20) : x), n = e * (e + 2);
    return x * (n / (n + 2));
}

#ifdef SLOPE
static inline VECTOR curve_LEAKY_RELU(VECTOR x) { return x > 0 ? x : x * (ELEMENT)as_float(SLOPE); }
#endif

// What every kernel does to its results.
static inline VECTOR finished(VECTOR value, uint low, uint high) {
    return JOIN(curve_, CURVE)(clamped(value, low, high));
}
