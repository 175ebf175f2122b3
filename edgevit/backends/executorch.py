"""ExecuTorch: .pte files for XNNPACK, or for Apple's Core ML delegate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Backend, LowerRequest, Runner, silenced
from edgevit.core.flat import Table, item, root
from edgevit.core.manifest import MARKER
from edgevit.errors import BadFile, MissingDependency

_STRING_VALUE = 6
_DELEGATE_CALL = 2


def lower(request: LowerRequest) -> None:
    """Write a .pte file; the manifest is a constant method of the program."""
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        request.program,
        partitioner=[_partitioner(request)],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
        constant_methods={MARKER: request.manifest.embedded()},
    )
    with request.out.open("wb") as file:
        lowered.to_executorch().write_to_file(file)


def _partitioner(request: LowerRequest) -> Any:
    if request.variant != "coreml":
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return XnnpackPartitioner()
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    half = request.manifest.target.precision == "fp16"
    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
        minimum_deployment_target=getattr(coremltools.target, request.version),
    )
    return CoreMLPartitioner(compile_specs=specs)


def load(path: Path) -> Runner:
    """Run a file in ExecuTorch's own runtime with XNNPACK."""
    try:
        with silenced():
            import torch
            from executorch.runtime import Runtime

            program = Runtime.get().load_program(path)
            method = program.load_method("forward")
    except ImportError as error:
        raise MissingDependency("executorch", "running .pte files", extra="executorch") from error
    except RuntimeError as error:
        raise BadFile("ExecuTorch cannot load the file", where=f"{path}: {error}") from error
    if method is None:
        raise BadFile("the file has no forward method", where=str(path))

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        outputs = method.execute([torch.from_numpy(np.array(inputs, order="C"))])
        return np.array(outputs[0].numpy(), dtype=np.float32, copy=True)

    run.program = program  # type: ignore[attr-defined]  # the method does not keep its program alive
    return run


def _plans(path: Path) -> Iterator[Table]:
    """The execution plans of a program (schema/program.fbs: Program.execution_plan)."""
    data = path.read_bytes()
    if data[4:6] != b"ET":
        raise BadFile("not an ExecuTorch program", where=str(path))
    return root(data).tables(1)


def operators(path: Path) -> Counter[str]:
    """Delegates by backend, and the operators that stay outside them, as called."""
    found: Counter[str] = Counter()
    for plan in _plans(path):
        if plan.text(0) != "forward":
            continue
        names = [".".join(part for part in (op.text(0), op.text(1)) if part) for op in plan.tables(6)]
        delegates = [f"delegate: {delegate.text(0)}" for delegate in plan.tables(7)]
        for chain in plan.tables(5):
            for instruction in chain.tables(2):
                kind, arguments = instruction.integer(0, 1), instruction.table(1)
                if arguments is None:
                    continue
                if kind == 1:
                    found[item(names, arguments.integer(0))] += 1
                elif kind == _DELEGATE_CALL:
                    found[item(delegates, arguments.integer(0))] += 1
    return found


def read_embedded(path: Path) -> str | None:
    """The string that the constant method ``edgevit_manifest`` returns."""
    for plan in _plans(path):
        if plan.text(0) == MARKER:
            for value in plan.tables(2):
                text = value.table(1)
                if value.integer(0, 1) == _STRING_VALUE and text is not None:
                    return text.text(0)
    return None


BACKEND = Backend(
    name="executorch",
    suffix=".pte",
    extra="executorch",
    packages=("torch", "executorch"),
    runtime_packages=("executorch",),
    layout=lambda variant: "image_nchw_float" if variant == "coreml" else "image_nhwc_uint8",
    half_program=lambda variant: variant != "coreml",
    input_name="image",
    output_name="probabilities",
    opset="Edge dialect",
    lower=lower,
    load=load,
    operators=operators,
    read_embedded=read_embedded,
    available=lambda variant: "the Core ML delegate runs on Apple systems only" if variant == "coreml" else "",
)
