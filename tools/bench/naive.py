"""What a user gets from each toolchain's own documented call, with nothing of edgevit in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def onnx(module: Any, example: Any, out: Path) -> Path:
    """``torch.onnx.export(..., dynamo=True)``."""
    import torch

    path = out / "naive.onnx"
    torch.onnx.export(module, (example,), str(path), dynamo=True, external_data=False, verbose=False)
    return path


def litert(module: Any, example: Any, out: Path) -> Path:
    """``litert_torch.convert``."""
    import litert_torch

    path = out / "naive.tflite"
    litert_torch.convert(module, (example,)).export(str(path))
    return path


def executorch(module: Any, example: Any, out: Path) -> Path:
    """``to_edge_transform_and_lower`` with the XNNPACK partitioner."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    path = out / "naive.pte"
    program = torch.export.export(module, (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with path.open("wb") as file:
        lowered.to_executorch().write_to_file(file)
    return path


def coreml(module: Any, example: Any, out: Path) -> Path:
    """``coremltools.convert`` of the exported program."""
    import coremltools as ct
    import torch

    path = out / "naive.mlpackage"
    program = torch.export.export(module, (example,)).run_decompositions({})
    model = ct.convert(
        program,
        inputs=[ct.TensorType(name="image", shape=tuple(example.shape))],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


CALLS = {"onnx": onnx, "litert": litert, "executorch": executorch, "coreml": coreml}
