"""Small ML Programs, built with coremltools, saved, and read back."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Build = Callable[..., Any]


def save(build: Build, inputs: dict[str, np.ndarray], out: Path, *, opset: str = "iOS17", half: bool = False) -> Path:
    """Save a program as an .mlpackage, its operations exactly as built.

    Args:
        build: from builder variables, one an input, to the program's outputs.
        inputs: examples; their shapes and types become the program's.
        out: folder to write into.
        opset: deployment target.
        half: convert to fp16 as coremltools does.
    """
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}
    specs = [mb.TensorSpec(shape=value.shape, dtype=kinds[value.dtype.name]) for value in inputs.values()]
    gc.freeze()  # ct.convert collects garbage among a million objects of the toolchain, every time
    names = ", ".join(inputs)
    scope = {"build": build}
    exec(f"def made({names}):\n    return build({names})\n", scope)
    program = mb.program(input_specs=specs, opset_version=getattr(ct.target, opset))(scope["made"])
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, opset),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.DEFAULT if half else ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = Path(tempfile.mkdtemp(dir=out)) / "m.mlpackage"
    model.save(str(path))
    return path


def evaluate(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a saved program, in its order."""
    import torch

    from edgevit.mil.evaluate import load_program, run

    given = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    return [value.numpy() for value in run(load_program(path), given).values()]
