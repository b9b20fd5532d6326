"""What to tell a user about an operator that the graph has no word for."""

from __future__ import annotations

SUPPORTED = (
    "convolutions, linear layers, batch, layer, group and instance norm, attention, matrix products, activations "
    "(relu, relu6, hardtanh, sigmoid, silu, hardswish, gelu, tanh, mish, elu, selu, leaky_relu), sums, products and "
    "quotients, roots, powers, softmax, pools, means, resizing, reshapes and permutations, slices, padding and "
    "concatenation"
)

_FAMILIES = {
    "use another activation, such as nn.SiLU or nn.LeakyReLU, and fine-tune": (
        "rrelu, rrelu_with_noise_functional, softplus, softsign, threshold, log_sigmoid, log_sigmoid_forward, log, erf"
    ),
    "use nn.BatchNorm2d, whose statistics are fixed after training": (
        "local_response_norm, _native_batch_norm_legit, native_batch_norm"
    ),
    "end the model before it, and apply it to the compiled network's output": (
        "log_softmax, _log_softmax, argmax, topk, sort"
    ),
    "write it as a permutation: x.permute(...)": "numpy_T, matrix_H, adjoint",
    "write it as a product and a sum: input + a @ b": "baddbmm",
    "compile the parts of the model before and after the resampling separately": "grid_sampler_2d, grid_sampler",
    "use the 2-d layer instead": "conv3d, conv_transpose3d, max_pool3d, avg_pool3d",
    "remove random numbers from eval mode": "rand, rand_like, randn, randn_like, bernoulli",
}

_HINTS = {operator: hint for hint, operators in _FAMILIES.items() for operator in operators.split(", ")}

_GENERAL = "replace it by supported operators, or compile only the part of the model without it"


def hint_for(operator: str) -> str:
    """What would help with ``operator``, written ``aten.gelu``."""
    return _HINTS.get(operator.rpartition(".")[2], _GENERAL)
