"""Finds where half precision goes wrong, by executing a program twice on the same inputs.

The first run rounds nothing and shows how large every value really is. The second rounds every
result to fp16, as the program declares it or, for an fp32 program, as its fp16 version would. Only
where trouble starts is reported: what follows from it is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from edgevit.mil.evaluate import Arithmetic, Observation, Program, Step
from edgevit.mil.operators.linear import attention_scores
from edgevit.mil.package import MODULES
from edgevit.mil.runner import predict

LARGEST = 65504.0
"""The largest finite fp16 number."""
SMALLEST_NORMAL = 2.0**-14
"""The smallest normal fp16 number; smaller ones lose precision, or are flushed to zero."""
_CAST = "_cast_fp16"

HazardKind = Literal["overflow", "inner overflow", "subnormal", "departure"]


@dataclass(frozen=True)
class Fp16Limits:
    """Thresholds from which a result is reported as a hazard.

    Attributes:
        subnormal: share of a result's norm that lies below 2^-14, which hardware that flushes
            subnormal numbers loses.
        departure: relative L2 difference between the fp16 run's and the exact run's result.
    """

    subnormal: float = 0.01
    departure: float = 0.03


@dataclass(frozen=True)
class Hazard:
    """One operation at which fp16 goes wrong.

    Attributes:
        kind: ``overflow``: a result beyond 65,504; ``inner overflow``: a square, product or sum inside
            the operation would be, if the hardware keeps it in fp16; ``subnormal``: too much of the
            result is too small; ``departure``: the result differs from the exact one.
        operation: name of the result, as in the program.
        operator: e.g. ``linear``.
        module: dotted path of the PyTorch module it came from, or an empty string.
        value: the largest magnitude, the share lost, or the relative difference.
        limit: the threshold that it exceeds.
        keep: the operations or modules to keep in fp32.
    """

    kind: HazardKind
    operation: str
    operator: str
    module: str
    value: float
    limit: float
    keep: tuple[str, ...]

    def sentence(self) -> str:
        """One line that describes the hazard and where it is."""
        place = f"{self.operator} {self.operation}" + (f" in {self.module}" if self.module else "")
        what = {
            "overflow": f"reaches {self.value:.3g}, fp16 ends at {self.limit:,.0f}",
            "inner overflow": f"reaches {self.value:.3g} inside, fp16 ends at {self.limit:,.0f}",
            "subnormal": f"has {self.value:.1%} of its norm in subnormal numbers, more than {self.limit:.0%}",
            "departure": f"differs from fp32 by {self.value:.2g}, more than {self.limit:g}",
        }
        return f"{place} {what[self.kind]}"


def _largest_square(x: Tensor, axes: Any = None) -> float:
    chosen = tuple(range(x.ndim)) if axes is None else tuple(axes)
    return float((x - x.mean(chosen, keepdim=True)).square().max())


def _sum(x: Tensor, axes: Any) -> Tensor:
    return x.sum(tuple(range(x.ndim)) if axes is None else tuple(axes))


_INNER: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "layer_norm": lambda a: _largest_square(a["x"], a.get("axes")),
    "instance_norm": lambda a: _largest_square(a["x"], range(2, a["x"].ndim)),
    "l2_norm": lambda a: float(a["x"].square().sum((-3, -2, -1)).max()),
    "reduce_l2_norm": lambda a: float(_sum(a["x"].square(), a.get("axes")).max()),
    "reduce_mean": lambda a: float(_sum(a["x"], a.get("axes")).abs().max()),
    "scaled_dot_product_attention": lambda a: float(attention_scores(a["query"], a["key"]).abs().max()),
}
"""The largest value inside an operator that squares, multiplies or sums before it scales down."""


@dataclass(frozen=True)
class _Exact:
    """Statistics of one result in the exact run; the worst over the inputs."""

    largest: float
    inner: float
    lost: float


def _lost(values: Tensor) -> float:
    """The share of a tensor's norm in numbers below fp16's smallest normal number."""
    norm = float(values.double().norm())
    small = values[values.abs() < SMALLEST_NORMAL]
    return float(small.double().norm()) / norm if norm > 0 else 0.0


def _difference(found: Tensor, right: Tensor) -> float:
    norm = float(right.double().norm())
    error = float((found.double() - right.double()).norm())
    if not math.isfinite(error):
        return math.inf
    return error / norm if norm > 0 else (0.0 if error == 0 else math.inf)


class _Survey:
    """Runs a program on inputs and keeps the worst statistics of every result."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.arithmetic = Arithmetic.DECLARED if program.half else Arithmetic.HALF
        self.exact: dict[str, _Exact] = {}
        self.difference: dict[str, float] = {}
        self._right: dict[str, Tensor] = {}

    def _rounds(self, seen: Observation) -> bool:
        declared = seen.output.type.dtype.name if seen.output.type else ""
        return self.arithmetic is Arithmetic.HALF or declared == "fp16"

    def _see_exact(self, seen: Observation) -> None:
        self._right[seen.output.name] = seen.computed
        if not self._rounds(seen) or seen.computed.numel() == 0:
            return
        measure = _INNER.get(seen.step.operation.type)
        found = _Exact(
            float(seen.computed.abs().max()), measure(seen.arguments) if measure else 0.0, _lost(seen.computed)
        )
        before = self.exact.get(seen.output.name, found)
        self.exact[seen.output.name] = _Exact(
            max(before.largest, found.largest), max(before.inner, found.inner), max(before.lost, found.lost)
        )

    def _see_rounded(self, seen: Observation) -> None:
        name = seen.output.name
        found = _difference(seen.settled, self._right[name])
        self.difference[name] = max(self.difference.get(name, 0.0), found)

    def overflows(self, name: str) -> bool:
        """Whether a result exceeds the range of fp16."""
        return name in self.exact and self.exact[name].largest > LARGEST

    def add(self, given: NDArray[Any]) -> None:
        """Run one input of batch size 1."""
        predict(self.program, given, Arithmetic.EXACT, self._see_exact)
        predict(self.program, given, self.arithmetic, self._see_rounded)
        self._right.clear()


class _Places:
    """The origin of operations, and what to keep in fp32 to cure them."""

    def __init__(self, program: Program) -> None:
        modules: dict[str, list[str]] = json.loads(program.package.metadata.get(MODULES, "{}"))
        self.module = {name: path for path, names in modules.items() for name in names}
        self._parents = {path.rpartition(".")[0] for path in modules}
        self._outputs = set(program.package.function.outputs)
        self.maker = {output.name: step for step in program.steps for output in step.operation.outputs}
        self.readers: dict[str, list[Step]] = {}
        for step in program.steps:
            for name in step.reads:
                self.readers.setdefault(name, []).append(step)

    def pattern(self, step: Step) -> str:
        """The ``--keep-fp32`` pattern of an operation: its module, if nothing else is in that."""
        name = step.operation.name
        module = self.module.get(name, "")
        return module if module and module not in self._parents else name.replace(_CAST, "")

    def matters(self, name: str, departs: Callable[[str], bool]) -> bool:
        """Whether a departure reaches the readers: a mean near 0 may be far off without any effect."""
        if name in self._outputs:
            return True
        return any(departs(output.name) for step in self.readers.get(name, []) for output in step.operation.outputs)

    def around(self, names: Iterable[str], spreads: Callable[[str], bool]) -> tuple[str, ...]:
        """Patterns of the operations that compute and read values, and on through results that the error reaches."""
        waiting, seen, steps = list(names), set(), []
        while waiting:
            name = waiting.pop(0)
            if name in seen:
                continue
            seen.add(name)
            steps += [step for step in (self.maker.get(name), *self.readers.get(name, [])) if step is not None]
            for reader in self.readers.get(name, []):
                waiting += [output.name for output in reader.operation.outputs if spreads(output.name)]
        return tuple(dict.fromkeys(self.pattern(step) for step in steps if step.operation.type != "cast"))


def find_hazards(
    program: Program, inputs: Iterable[NDArray[Any]], limits: Fp16Limits | None = None
) -> tuple[Hazard, ...]:
    """Execute a program in full and in half precision and report where half precision goes wrong.

    Args:
        program: loaded; of an fp16 program only results that it declares as fp16 are judged.
        inputs: as for `edgevit.mil.runner.predict`, at least one; the worst over all counts.
        limits: from where on something is reported.

    Returns:
        Hazards in the program's order.
    """
    limits = limits or Fp16Limits()
    survey, places = _Survey(program), _Places(program)
    with torch.inference_mode():
        for given in inputs:
            survey.add(given)
    return tuple(
        hazard
        for step in program.steps
        for output in step.operation.outputs
        if (hazard := _judge(step, output.name, survey, places, limits)) is not None
    )


def _judge(step: Step, name: str, survey: _Survey, places: _Places, limits: Fp16Limits) -> Hazard | None:
    """The gravest hazard at a result; None if it is sound or if the error came from an earlier one."""
    seen, read = survey.exact.get(name), step.reads
    if seen is None:
        return None
    own = (places.pattern(step),)
    plain = Hazard("overflow", name, step.operation.type, places.module.get(name, ""), seen.largest, LARGEST, own)
    if seen.largest > LARGEST:
        spread = any(survey.overflows(one) for one in read)
        return None if spread else replace(plain, keep=places.around([name], survey.overflows))
    if seen.inner > LARGEST:
        return replace(plain, kind="inner overflow", value=seen.inner)

    def loses(one: str) -> bool:
        return one in survey.exact and survey.exact[one].lost > limits.subnormal

    if loses(name) and not any(loses(one) for one in read):
        keep = places.around([name], loses)
        return replace(plain, kind="subnormal", value=seen.lost, limit=limits.subnormal, keep=keep)

    def departs(one: str) -> bool:
        return survey.difference.get(one, 0.0) > limits.departure

    if departs(name) and not any(departs(one) for one in read) and places.matters(name, departs):
        makers = (places.pattern(places.maker[one]) for one in read if one in places.maker)
        keep = tuple(dict.fromkeys((*own, *makers)))
        return replace(plain, kind="departure", value=survey.difference[name], limit=limits.departure, keep=keep)
    return None
