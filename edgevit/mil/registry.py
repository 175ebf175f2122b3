"""The operator table: one function for each operator, found by name, its parameters named as in MIL.

A function's annotations say what it takes, so that constants are turned into Python values once,
when a program is loaded: ``Tensor``, ``list[Tensor]`` (operators that take several values),
``int``, ``float``, ``bool``, ``str``, ``Ints``, ``Bools``, ``Strings``, each optionally ``| None``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Strings = tuple[str, ...]
Result = Any
Compute = Callable[..., Result]


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return value.reshape(-1).tolist()
    return [one.item() if isinstance(one, Tensor) else one for one in value]


def _one(value: Any) -> Any:
    return value.reshape(()).item() if isinstance(value, Tensor) else value


_CONVERT: dict[Any, Callable[[Any], Any]] = {
    Tensor: lambda value: value,
    list[Tensor]: lambda value: value,
    int: lambda value: int(_one(value)),
    float: lambda value: float(_one(value)),
    bool: lambda value: bool(_one(value)),
    str: str,
    Ints: lambda value: tuple(int(one) for one in _numbers(value)),
    Bools: lambda value: tuple(bool(one) for one in _numbers(value)),
    Strings: lambda value: tuple(str(one) for one in value),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operator's function.

    Attributes:
        convert: from a torch tensor, string or list to the type that the function takes.
        several: it takes a list of values.
        required: it has no default.
    """

    convert: Callable[[Any], Any]
    several: bool
    required: bool


@dataclass(frozen=True)
class Operator:
    """One operator: its function and its parameters by their MIL names."""

    name: str
    compute: Compute
    parameters: dict[str, Parameter]


OPERATORS: dict[str, Operator] = {}


def _kind(annotation: Any) -> Any:
    """A type annotation without its ``

    None``.
    """
    kinds = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return kinds[0]
    return annotation


def _parameters(compute: Compute) -> dict[str, Parameter]:
    hints = get_type_hints(compute)
    found = {}
    for name, one in inspect.signature(compute).parameters.items():
        kind = _kind(hints[name])
        found[name] = Parameter(_CONVERT[kind], kind == list[Tensor], one.default is inspect.Parameter.empty)
    return found


def operator(*names: str) -> Callable[[Compute], Compute]:
    """Register a function under the names of one or more operators."""

    def register(compute: Compute) -> Compute:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"the operator {name} is registered twice")
            OPERATORS[name] = Operator(name, compute, _parameters(compute))
        return compute

    return register


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front, for an axis that may be negative.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} does not exist in a tensor of rank {rank}")
    return axis % rank if rank else 0


def spread(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector [n] shaped to broadcast along one axis of a tensor with ``rank`` axes; a scalar is left as it is."""
    if vector.ndim == 0 or rank == 0:
        return vector
    return vector.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def take(values: Tensor, axis: int, indices: Tensor) -> Tensor:
    """The slices at ``indices`` [n] along one axis."""
    return torch.index_select(values, axis, indices)
