"""ExecuTorch: .pte files for XNNPACK, or for Apple's Core ML delegate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Backend, LowerRequest, Runner, one_at_a_time
from edgevit.backends.executorch.passes import pruned_xnnpack_passes
from edgevit.backends.executorch.program_file import operators, placement, read_embedded
from edgevit.core.own_process import silenced
from edgevit.errors import BadFile, import_failed
from edgevit.schema.manifest import MARKER

if TYPE_CHECKING:
    from edgevit.graph.qdq.prepare import Form


_ERRORS = {
    0x01: "an internal error",
    0x02: "a state that does not allow it",
    0x03: "the end of the method was reached",
    0x10: "an operation that is not supported",
    0x11: "an operation that is not implemented",
    0x12: "an argument that an operator does not take (a shape, a layout or a dtype)",
    0x13: "a value of another type than the operator takes",
    0x14: "an operator that the runtime does not have",
    0x20: "something that was not found",
    0x21: "no memory",
    0x22: "a file that cannot be read",
    0x23: "a program that is not valid",
    0x24: "external data that is not valid",
    0x25: "no more resources",
    0x30: "a delegate that does not fit the file",
    0x31: "no memory for a delegate",
    0x32: "a delegate that is not there",
}
"""ExecuTorch's error numbers (runtime/core/error.h of 1.5)."""


def lower(request: LowerRequest) -> None:
    """Write a .pte file; the manifest is a constant method of the program."""
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    with pruned_xnnpack_passes():
        lowered = to_edge_transform_and_lower(
            request.program,
            partitioner=[_partitioner(request)],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
            constant_methods={MARKER: request.manifest.embedded()},
        )
    with request.out.open("wb") as file:
        lowered.to_executorch().write_to_file(file)


def _quantized_form() -> Form:
    from edgevit.graph.qdq.prepare import Form

    return Form(dynamic=True)


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


def in_words(error: Exception) -> str:
    """A runtime's message with its error number replaced by ExecuTorch's name for it."""
    text = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return re.sub(r"0x[0-9a-fA-F]+", lambda found: _ERRORS.get(int(found[0], 16), found[0]), text)


def cause(log: str) -> str:
    """The operator at which a run failed and what its kernel checked, from the runtime's last output."""
    operators = re.findall(r"in operator (?:\w+::)?(\w+)(?:\.\w+)?: 0x", log)
    if not operators:
        return ""
    checks = re.findall(r"Check failed \(.*?\): (\S.*)", log[: log.rindex("in operator ")])
    return f"the operator {operators[-1]}" + (f" says: {checks[-1]}" if checks else "")


def load(path: Path) -> Runner:
    """Run a file in ExecuTorch's own runtime with XNNPACK."""
    try:
        with silenced():
            import torch
            from executorch.runtime import Runtime

            program = Runtime.get().load_program(path)
            method = program.load_method("forward")
    except ImportError as error:
        raise import_failed(error, "executorch", "running .pte files", extra="executorch") from error
    except RuntimeError as error:
        raise BadFile("ExecuTorch cannot load the file", where=f"{path}: {in_words(error)}") from error
    if method is None:
        raise BadFile("the file has no forward method", where=str(path))

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        try:
            outputs = method.execute([torch.from_numpy(np.array(inputs, order="C"))])
        except RuntimeError as error:
            raise RuntimeError(f"ExecuTorch cannot run the file: {in_words(error)}") from None
        return np.array(outputs[0].numpy(), dtype=np.float32, copy=True)

    run.program = program  # type: ignore[attr-defined]  # the method does not keep its program alive
    return one_at_a_time(run)


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
    cause=cause,
    lower=lower,
    load=load,
    operators=operators,
    read_embedded=read_embedded,
    placement=placement,
    quantized_form=_quantized_form,
    keeps_fp32=lambda variant: variant != "coreml",
    available=lambda variant: "the Core ML delegate runs on Apple systems only" if variant == "coreml" else "",
    effort=20,
    imports=("edgevit.graph.prepare", "executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner"),
)
