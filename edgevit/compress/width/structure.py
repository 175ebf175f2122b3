"""The structure of a vision transformer: groups of channels, dimensions and neurons that can be removed completely.

A group is a set of units of one width that the network knows in several places: the residual stream's channels
are rows of one weight and columns of the next. An axis says which groups, in which order, one dimension of one
tensor consists of; a tap says where in the forward pass a group's units can be masked, which has the same effect
as removing them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

WidthStage = Literal["residual", "attention", "hidden"]
"""ED-ViT's three consecutive stages: residual channels, dimensions inside every head, hidden neurons."""
STAGES: tuple[WidthStage, ...] = ("residual", "attention", "hidden")


@dataclass(frozen=True)
class WidthTap:
    """A point in the forward pass where a group's units can be masked.

    Attributes:
        module: its path.
        side: whether the module's input or its output is masked.
        axis: 1 for NCHW, -1 for channels last.
        start: position of the group's first unit along the axis.
    """

    module: str
    side: Literal["input", "output"]
    axis: int
    start: int = 0


@dataclass(frozen=True)
class Group:
    """A set of units of one width, which are removed together everywhere.

    Attributes:
        name: stable while the model is cut.
        size: current number of units.
        stage: the pruning stage that cuts it.
        taps: where it is masked; together they remove the units completely.
        layer: groups of one layer keep the same number of units (all heads stay equally wide).
    """

    name: str
    size: int
    stage: WidthStage
    taps: tuple[WidthTap, ...]
    layer: str = ""


@dataclass(frozen=True)
class Axis:
    """One dimension of one tensor: the groups that it consists of, in order."""

    tensor: str
    dim: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """All groups of one model, and the tensors that depend on them.

    Attributes:
        groups: by name.
        axes: every dimension of a tensor that follows a group.
        settle: brings a model's attributes (head dimensions and the like) in line with new sizes.
        softmax: for an attention layer, the tensors whose query parts are scaled when the runtime's own softmax
            scale changes with the head dimension, by the name of the query group; empty where the module keeps
            its own scale.
    """

    groups: Mapping[str, Group]
    axes: tuple[Axis, ...]
    settle: Callable[[nn.Module, Mapping[str, int]], None]
    softmax: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)

    def of_stage(self, stage: WidthStage) -> list[Group]:
        """The groups that one pruning stage cuts, in order."""
        return [group for group in self.groups.values() if group.stage == stage]

    def sizes(self) -> dict[str, int]:
        """The number of units in each group, by the group's name."""
        return {name: group.size for name, group in self.groups.items()}


class Drawing:
    """Collects groups and axes while a family describes a model; tensors that a model lacks are left out."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        self.groups: dict[str, Group] = {}
        self.axes: list[Axis] = []
        self.softmax: dict[str, tuple[tuple[str, int], ...]] = {}

    def group(self, name: str, size: int, stage: WidthStage, taps: list[WidthTap], layer: str = "") -> str:
        """Add a group and return its name."""
        self.groups[name] = Group(name, size, stage, tuple(taps), layer)
        return name

    def axis(self, tensor: str, dim: int, *parts: str) -> None:
        """Declare that one dimension of a tensor consists of these groups."""
        if tensor in self.shapes:
            width = sum(self.groups[part].size for part in parts)
            if self.shapes[tensor][dim] != width:
                raise ValueError(f"{tensor} has {self.shapes[tensor][dim]} entries along {dim}, not {width}")
            self.axes.append(Axis(tensor, dim, parts))

    def vectors(self, path: str, *parts: str) -> None:
        """Declare the weights, biases and running statistics of a normalisation."""
        for leaf in ("weight", "bias", "running_mean", "running_var", "gamma"):
            self.axis(f"{path}.{leaf}", 0, *parts)

    def linear(self, path: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> None:
        """Declare a linear layer or convolution; an empty side is not cut."""
        if gives:
            self.axis(f"{path}.weight", 0, *gives)
            self.axis(f"{path}.bias", 0, *gives)
        if takes:
            self.axis(f"{path}.weight", 1, *takes)

    def depthwise(self, path: str, *parts: str) -> None:
        """Declare a depthwise convolution: axis 0 of its weight and bias is made of the groups ``parts``."""
        self.axis(f"{path}.weight", 0, *parts)
        self.axis(f"{path}.bias", 0, *parts)

    def done(self, settle: Callable[[nn.Module, Mapping[str, int]], None]) -> Structure:
        """The structure of everything that was declared; ``settle`` corrects a module's attributes after a cut."""
        return Structure(self.groups, tuple(self.axes), settle, self.softmax)
