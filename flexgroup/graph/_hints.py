"""What to tell a user about an operator that the graph has no word for."""

from __future__ import annotations

SUPPORTED = (
    "convolutions, linear layers, batch, layer, group, instance and local response norm, attention, matrix products, "
    "activations (relu, relu6, hardtanh, sigmoid, silu, hardswish, gelu, glu, tanh, mish, softplus, elu, selu, "
    "leaky_relu), sums, products and quotients, the larger and the smaller of two, roots, powers, logarithms, softmax, "
    "pools, means, resizing, reshapes and permutations, slices, padding and concatenation"
)

_FAMILIES = {
    "use another activation, such as nn.SiLU or nn.LeakyReLU, and fine-tune": (
        "rrelu, rrelu_with_noise_functional, threshold"
    ),
    "use nn.BatchNorm2d, whose statistics are fixed after training": ("_native_batch_norm_legit, native_batch_norm"),
    "end the model before it, and apply it to the compiled network's output": ("argmax, topk, sort"),
    "write it as a permutation: x.permute(...)": "numpy_T, matrix_H, adjoint",
    "write it as a product and a sum: input + a @ b": "baddbmm",
    "compile the parts of the model before and after the resampling separately": "grid_sampler_2d, grid_sampler",
    "use the 2-d layer instead": "conv3d, conv_transpose3d, max_pool3d",
    "remove random numbers from eval mode": "rand, rand_like, randn, randn_like, bernoulli",
}

_HINTS = {operator: hint for hint, operators in _FAMILIES.items() for operator in operators.split(", ")}

_GENERAL = "replace it by supported operators, or compile only the part of the model without it"


def hint_for(operator: str) -> str:
    """What would help with ``operator``, written ``aten.gelu``."""
    return _HINTS.get(operator.rpartition(".")[2], _GENERAL)
