"""What to tell a user about an operator that the graph has no word for."""

from __future__ import annotations

SUPPORTED = (
    "convolutions, linear layers, batch and layer norm, attention, matrix products, activations (relu, relu6, "
    "hardtanh, sigmoid, silu, hardswish, gelu, tanh, mish, leaky_relu), sums and products, softmax, pools, means, "
    "resizing, reshapes and permutations, slices, zero padding and concatenation"
)

_FAMILIES = {
    "use another activation, such as nn.SiLU or nn.LeakyReLU, and fine-tune": (
        "elu, celu, selu, rrelu, rrelu_with_noise_functional, softplus, softsign, threshold, log_sigmoid, "
        "log_sigmoid_forward, exp, sqrt, erf"
    ),
    "use nn.BatchNorm2d, whose statistics are fixed after training": (
        "group_norm, native_group_norm, instance_norm, local_response_norm, _native_batch_norm_legit, native_batch_norm"
    ),
    "end the model before it, and apply it to the compiled network's output": (
        "log_softmax, _log_softmax, argmax, topk, max, sort"
    ),
    "write it as a permutation: x.permute(...)": "numpy_T, matrix_H, adjoint",
    "write it as a product and a sum: input + a @ b": "baddbmm",
    "compile the parts of the model before and after the resampling separately": "grid_sampler_2d, grid_sampler",
    "use the 2-d layer instead": "conv1d, conv3d, max_pool1d, avg_pool1d, max_pool3d, avg_pool3d",
    "use zero padding (padding_mode='zeros')": "reflection_pad2d, replication_pad2d, _pad_circular",
    "remove random numbers from eval mode": "rand, rand_like, randn, randn_like, bernoulli",
}

_HINTS = {operator: hint for hint, operators in _FAMILIES.items() for operator in operators.split(", ")}

_GENERAL = "replace it by supported operators, or compile only the part of the model without it"


def hint_for(operator: str) -> str:
    """What would help with ``operator``, written ``aten.gelu``."""
    return _HINTS.get(operator.rpartition(".")[2], _GENERAL)
