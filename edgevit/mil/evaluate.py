"""Loads a package's program once, then runs it any number of times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgevit.errors import BadFile, UsageError
from edgevit.mil import operators
from edgevit.mil.blob import WeightFile
from edgevit.mil.dtypes import DType
from edgevit.mil.package import Package, read_package
from edgevit.mil.program import Binding, InFile, Name, Operation, Output
from edgevit.mil.registry import OPERATORS, Operator

_KNOWN = operators.__name__  # importing the package fills OPERATORS


class Arithmetic(Enum):
    """How results are rounded: to the declared type, not at all, or every real number to fp16."""

    DECLARED = "declared"
    EXACT = "exact"
    HALF = "half"


@dataclass(frozen=True)
class Step:
    """One operation prepared for execution: constants converted, variables named.

    Attributes:
        operation: as read from the program.
        operator: the function that executes it.
        constants: parameters whose values are known.
        variables: parameters that other operations produce.
        finished: values that no later step uses.
    """

    operation: Operation
    operator: Operator
    constants: dict[str, Any]
    variables: dict[str, tuple[Any, ...]]
    finished: tuple[str, ...]

    @property
    def reads(self) -> list[str]:
        """Names of the values that it reads from other operations."""
        return [one.name for bound in self.variables.values() for one in bound if isinstance(one, Name)]


@dataclass(frozen=True)
class Program:
    """A loaded program, ready to run.

    Attributes:
        package: the package that it was read from.
        constants: weights, decompressed, and results of operations on constants alone.
        steps: in the order of execution.
    """

    package: Package
    constants: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def half(self) -> bool:
        """Whether any step rounds to fp16."""
        return any(
            output.type is not None and output.type.dtype.name == "fp16"
            for step in self.steps
            for output in step.operation.outputs
        )


@dataclass(frozen=True)
class Observation:
    """One floating-point result during a run.

    Attributes:
        step: the step that computed it.
        output: which of the step's results.
        arguments: arguments of the operator.
        computed: before rounding.
        settled: after rounding.
    """

    step: Step
    output: Output
    arguments: Mapping[str, Any]
    computed: Tensor
    settled: Tensor


Observer = Callable[[Observation], None]


def settle(value: Tensor, dtype: DType, arithmetic: Arithmetic = Arithmetic.DECLARED) -> Tensor:
    """Convert a computed value to its declared type, with that type's rounding.

    Real numbers stay float32 in memory and are rounded to fp16 where that is declared (more than
    65,504 becomes infinity from 65,520 on, as IEEE 754 has it). Integers wrap around; a real number
    that becomes an integer is truncated towards zero and saturates, as ARM's conversions do (MIL
    does not define it); NaN becomes 0.

    Args:
        value: any torch tensor.
        dtype: declared.
        arithmetic: how to round.
    """
    if dtype.is_float:
        if dtype.name == "fp64":
            return value.to(torch.float64)
        wide = value.to(torch.float32)
        rounds = arithmetic is Arithmetic.HALF or (arithmetic is Arithmetic.DECLARED and dtype.name == "fp16")
        return wide.to(torch.float16).to(torch.float32) if rounds else wide
    if dtype.name == "bool":
        return value.to(torch.bool)
    low, high = dtype.bounds
    if value.is_floating_point():
        whole = torch.nan_to_num(value.to(torch.float64), nan=0.0).trunc()
        big = whole.clamp(float(max(low, -(2**63))), float(min(high, 2**63 - 1025)))
        return big.to(torch.int64).to(dtype.torch)
    if dtype.bits == 64 or (dtype.held_exactly and value.dtype == dtype.torch):
        return value.to(dtype.torch)
    span = 1 << dtype.bits
    return ((value.to(torch.int64) - low) % span + low).to(dtype.torch)


def _as_torch(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        wide = {"float16": np.float32, "uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
        return torch.from_numpy(np.array(value, dtype=wide.get(value.dtype.name, value.dtype)))
    return [_as_torch(one) for one in value] if isinstance(value, list) else value


class _Loader:
    """Turns a package's operations into steps; reads weights when they are first needed."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.constants: dict[str, Any] = {}
        self.types: dict[str, Output] = {one.name: one for one in package.function.inputs}
        self._files: dict[str, WeightFile] = {}

    def constant(self, value: Any) -> Any:
        """A constant of the program as a torch or Python value; weights are read from their file."""
        if isinstance(value, InFile):
            if value.file not in self._files:
                self._files[value.file] = WeightFile(self.package.weight_file(value.file))
            return _as_torch(self._files[value.file].read(value.offset, value.type))
        return _as_torch(value)

    def load(self) -> Program:
        """The program with all operations as steps; those on constants alone are executed already."""
        steps = []
        for operation in self.package.function.operations:
            if operation.type == "const":
                self.constants[operation.name] = self.constant(operation.attributes.get("val", []))
            else:
                step = self.step(operation)
                if step.variables:
                    steps.append(step)
                else:
                    self.constants |= _execute(step, {}, Arithmetic.DECLARED, None)
            for output in operation.outputs:
                if output.name in self.types:
                    raise BadFile(f"the program produces {output.name!r} twice", where=str(self.package.path))
                self.types[output.name] = output
        missing = [name for name in self.package.function.outputs if name not in self.types]
        if missing:
            raise BadFile(f"the program never produces its output {missing[0]!r}", where=str(self.package.path))
        return Program(self.package, self.constants, _with_ends(steps, self.package.function.outputs))

    def step(self, operation: Operation) -> Step:
        """One operation prepared for execution."""
        if operation.type not in OPERATORS or operation.blocks:
            raise UsageError(
                f"edgevit cannot execute the operator {operation.type!r}",
                where=f"{operation.name} in {self.package.path}",
                cure="run this package on macOS, where Core ML itself executes it",
            )
        operator = OPERATORS[operation.type]
        given: dict[str, tuple[Binding, ...]] = dict(operation.inputs)
        if operation.type.startswith("constexpr_"):
            given |= {key: (value,) for key, value in operation.attributes.items() if key != "name"}
        constants: dict[str, Any] = {}
        variables: dict[str, tuple[Any, ...]] = {}
        for key, bound in given.items():
            if key not in operator.parameters:
                raise self._wrong(operation, f"it has no parameter {key!r}")
            values = tuple(self._bound(operation, one) for one in bound)
            if any(isinstance(one, Name) for one in values):
                variables[key] = values
            else:
                constants[key] = self._converted(operation, key, values)
        absent = [k for k, p in operator.parameters.items() if p.required and k not in given]
        if absent:
            raise self._wrong(operation, f"its parameter {absent[0]!r} is missing")
        return Step(operation, operator, constants, variables, ())

    def _bound(self, operation: Operation, one: Binding) -> Any:
        if not isinstance(one, Name):
            return self.constant(one)
        if one.name not in self.types:
            raise self._wrong(operation, f"nothing before it produces its input {one.name!r}")
        return self.constants.get(one.name, one)

    def _converted(self, operation: Operation, key: str, values: tuple[Any, ...]) -> Any:
        try:
            return _convert(OPERATORS[operation.type], key, values)
        except (ValueError, TypeError, RuntimeError) as error:
            raise self._wrong(operation, f"its parameter {key!r} is wrong: {error}") from error

    def _wrong(self, operation: Operation, what: str) -> BadFile:
        return _broken(operation, what, self.package)


def _broken(operation: Operation, what: str, package: Package | None = None) -> BadFile:
    place = f" in {package.path}" if package else ""
    return BadFile(f"the operation {operation.name} ({operation.type}) cannot be executed: {what}", where=place.strip())


def _convert(operator: Operator, key: str, values: tuple[Any, ...]) -> Any:
    parameter = operator.parameters[key]
    whole = len(values) == 1 and not parameter.several
    return parameter.convert(values[0] if whole else list(values))


def _with_ends(steps: list[Step], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    """The steps with, for each, the values that no later step reads."""
    seen = set(outputs)
    ended = []
    for step in reversed(steps):
        made = [output.name for output in step.operation.outputs]
        finished = tuple(dict.fromkeys(name for name in (*step.reads, *made) if name not in seen))
        seen.update(finished)
        ended.append(replace(step, finished=finished))
    return tuple(reversed(ended))


def _execute(step: Step, values: Mapping[str, Any], arithmetic: Arithmetic, observe: Observer | None) -> dict[str, Any]:
    """Execute one step; its results by name, checked against the declared shape and type."""
    arguments = dict(step.constants)
    try:
        for key, bound in step.variables.items():
            given = tuple(values[one.name] if isinstance(one, Name) else one for one in bound)
            arguments[key] = _convert(step.operator, key, given)
        result = step.operator.compute(**arguments)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise _broken(step.operation, (str(error).splitlines() or ["it failed"])[0]) from error
    several = result if isinstance(result, tuple) else (result,)
    outputs = step.operation.outputs
    if len(several) != len(outputs):
        raise _broken(step.operation, f"it gives {len(several)} values where the program declares {len(outputs)}")
    made: dict[str, Any] = {}
    for output, value in zip(outputs, several, strict=True):
        if output.type is None or not isinstance(value, Tensor):
            made[output.name] = value
            continue
        if not output.type.holds(tuple(value.shape)):
            declared = [size if size is not None else "?" for size in output.type.shape]
            raise _broken(step.operation, f"it gives the shape {list(value.shape)}, the program declares {declared}")
        settled = settle(value, output.type.dtype, arithmetic)
        if observe is not None and output.type.dtype.is_float:
            observe(Observation(step, output, arguments, value, settled))
        made[output.name] = settled
    return made


def load_program(path: Path) -> Program:
    """Read a package and prepare its program; compressed weights are decompressed once.

    Args:
        path: of an ``.mlpackage``.

    Raises:
        BadFile: it is no package, or is damaged; names the operation or the place in the file.
        UsageError: the program uses an operator that the evaluator does not know; names it.
    """
    with torch.inference_mode():
        return _Loader(read_package(path)).load()


def run(
    program: Program,
    inputs: Mapping[str, Tensor],
    arithmetic: Arithmetic = Arithmetic.DECLARED,
    observe: Observer | None = None,
) -> dict[str, Any]:
    """Execute a program.

    Args:
        program: loaded.
        inputs: by name, of the shapes that the program declares; any numeric dtype.
        arithmetic: how results are rounded.
        observe: called with every floating-point result.

    Returns:
        The outputs by name: tensors, and for a classifier the label and a dictionary of probabilities.

    Raises:
        UsageError: an input is missing or has another shape.
        BadFile: an operation cannot be executed, or gives another shape than declared; names it.
    """
    values = dict(program.constants)
    for one in program.package.function.inputs:
        if one.type is None or one.name not in inputs:
            raise UsageError(f"the program needs the input {one.name!r}", where=str(program.package.path))
        value = inputs[one.name]
        if not one.type.holds(tuple(value.shape)):
            raise UsageError(
                f"the input {one.name!r} has the shape {list(value.shape)}, the program takes {list(one.type.shape)}"
            )
        values[one.name] = settle(value, one.type.dtype, arithmetic)
    with torch.inference_mode():
        for step in program.steps:
            values |= _execute(step, values, arithmetic, observe)
            for name in step.finished:
                values.pop(name, None)
    return {name: values[name] for name in program.package.function.outputs}
