"""Element-wise operators: arithmetic, comparisons, logic, activations and casts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.mil.registry import Compute, operator, spread


def _of_two(compute: Compute) -> Compute:
    def apply(*, x: Tensor, y: Tensor) -> Tensor:
        return compute(x, y)

    return apply


def _of_one(compute: Compute) -> Compute:
    def apply(*, x: Tensor) -> Tensor:
        return compute(x)

    return apply


_OF_TWO: dict[str, Compute] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.true_divide,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}
_OF_ONE: dict[str, Compute] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": functional.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": functional.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
for _name, _compute in _OF_TWO.items():
    operator(_name)(_of_two(_compute))
for _name, _compute in _OF_ONE.items():
    operator(_name)(_of_one(_compute))


@operator("cast")
def cast(*, x: Tensor, dtype: str) -> Tensor:  # noqa: ARG001 - the declared result type says the same
    """Change the type; the evaluator converts to the declared result type as for every operator."""
    return x


@operator("log")
def log(*, x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of ``x + epsilon``."""
    return torch.log(x + epsilon)


@operator("rsqrt")
def rsqrt(*, x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """``1 / sqrt(x + epsilon)``."""
    return torch.rsqrt(x + epsilon)


@operator("inverse")
def inverse(*, x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """``1 / (x + epsilon)``."""
    return torch.reciprocal(x + epsilon)


@operator("clip")
def clip(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``x`` clamped into the interval [``alpha``, ``beta``]."""
    return x.clamp(alpha, beta)


@operator("threshold")
def threshold(*, x: Tensor, alpha: float) -> Tensor:
    """The larger of ``x`` and ``alpha``, element by element."""
    return x.clamp(min=alpha)


@operator("thresholded_relu")
def thresholded_relu(*, x: Tensor, alpha: float) -> Tensor:
    """``x`` where it is at least ``alpha``, otherwise 0."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@operator("clamped_relu")
def clamped_relu(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """Leaky ReLU with slope ``alpha``, at most ``beta``."""
    return functional.leaky_relu(x, alpha).clamp(max=beta)


@operator("leaky_relu")
def leaky_relu(*, x: Tensor, alpha: float) -> Tensor:
    """``x``, with slope ``alpha`` below 0."""
    return functional.leaky_relu(x, alpha)


@operator("elu")
def elu(*, x: Tensor, alpha: float) -> Tensor:
    """``x``, and ``alpha * (exp(x) - 1)`` below 0."""
    return functional.elu(x, alpha)


@operator("prelu")
def prelu(*, x: Tensor, alpha: Tensor) -> Tensor:
    """Leaky ReLU with a slope for each channel (axis 1)."""
    return torch.where(x > 0, x, x * spread(alpha, 1, x.ndim))


@operator("sigmoid_hard")
def sigmoid_hard(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha x + beta`` within [0, 1]."""
    return (x * alpha + beta).clamp(0, 1)


@operator("linear_activation")
def linear_activation(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha x + beta``."""
    return x * alpha + beta


@operator("scaled_tanh")
def scaled_tanh(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * tanh(beta * x)``, element by element."""
    return alpha * torch.tanh(x * beta)


@operator("softplus_parametric")
def softplus_parametric(*, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha log(1 + exp(beta x))`` with a pair for each channel (axis 1)."""
    scaled = x * spread(beta, 1, x.ndim)
    return spread(alpha, 1, x.ndim) * torch.logaddexp(scaled, torch.zeros_like(scaled))


@operator("gelu")
def gelu(*, x: Tensor, mode: str = "EXACT") -> Tensor:
    """GELU: ``EXACT``, ``TANH_APPROXIMATION`` or ``SIGMOID_APPROXIMATION``."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise ValueError(f"there is no GELU mode {mode!r}")
    return functional.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


@operator("softmax")
def softmax(*, x: Tensor, axis: int = -1) -> Tensor:
    """Softmax along one axis."""
    return torch.softmax(x, axis)


@operator("select")
def select(*, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``cond``, otherwise ``b``."""
    return torch.where(cond.bool(), a, b)
