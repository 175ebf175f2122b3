"""Core ML: ML Programs written by coremltools.

Core ML itself runs on Apple systems only. On macOS `load` predicts with it; elsewhere a package is
converted, read back and checked against its manifest, but not executed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Backend, LowerRequest, Runner
from edgevit.core.flat import fields, messages, string, string_map
from edgevit.core.manifest import MARKER, Manifest
from edgevit.errors import BadFile, EnvironmentIncomplete, MissingDependency

NOT_HERE = "Core ML predicts on macOS only"
_SPEC = Path("Data/com.apple.CoreML/model.mlmodel")
_LABEL = "classLabel"


def lower(request: LowerRequest) -> None:
    """Write an .mlpackage: an image (or tensor) in, a classifier with labels (or logits) out."""
    import coremltools as ct

    manifest = request.manifest
    _register_identities()
    half = manifest.target.precision == "fp16"
    options: dict[str, Any] = {}
    if manifest.output.kind == "probabilities":
        options["classifier_config"] = ct.ClassifierConfig(list(manifest.labels), predicted_feature_name=_LABEL)
    else:
        options["outputs"] = [ct.TensorType(name=manifest.output.name)]
    model = ct.convert(
        request.program.run_decompositions({}),
        inputs=[_input_type(manifest)],
        minimum_deployment_target=getattr(ct.target, request.version),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
        **options,
    )
    model.author, model.license, model.version = "edgevit", manifest.model.licence, manifest.edgevit
    model.short_description = f"{manifest.model.name}: {manifest.output.classes} classes"
    model.user_defined_metadata[MARKER] = manifest.embedded()
    model.save(str(request.out))
    check_saved(request.out, manifest)


def _on_macos() -> bool:
    return sys.platform == "darwin"


def _input_type(manifest: Manifest) -> Any:
    import coremltools as ct

    shape = (1, 3, *manifest.preprocess.size)
    if manifest.input.kind == "image":
        return ct.ImageType(name=manifest.input.name, shape=shape, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=manifest.input.name, shape=shape, dtype=np.float32)


def _register_identities() -> None:
    """coremltools has no lowering for ``alias``, which decompositions leave in windowed attention."""
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    def alias(context: Any, node: Any) -> None:
        context.add(ops._get_inputs(context, node, expected=1)[0], node.name)

    register_torch_op(override=True)(alias)


def check_saved(path: Path, manifest: Manifest) -> None:
    """Read a saved package back and compare its interface with the manifest.

    Raises:
        ValueError: the package does not say what the manifest says.
    """
    import coremltools as ct

    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    source = spec.description.input[0]
    height, width = manifest.preprocess.size
    if source.name != manifest.input.name:
        raise ValueError(f"the saved input is called {source.name}")
    if manifest.input.kind == "image":
        image = source.type.imageType
        if (image.height, image.width) != (height, width):
            raise ValueError(f"the saved image input is {image.height}x{image.width}")
    classifies = manifest.output.kind == "probabilities"
    if classifies and _class_labels(spec.mlProgram.functions["main"]) != list(manifest.labels):
        raise ValueError("the saved class labels differ from the manifest's")
    if not list((path / "Data").rglob("weight.bin")):
        raise ValueError("the package has no weight file")


def _class_labels(function: Any) -> list[str]:
    """The class names that the program's ``classify`` operation carries."""
    for block in function.block_specializations.values():
        for operation in block.operations:
            if operation.type == "classify":
                classes = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
                return [value.immediateValue.tensor.strings.values[0] for value in classes]
    return []


def load(path: Path) -> Runner:
    """Predict with Core ML (macOS only).

    Raises:
        EnvironmentIncomplete: this is not macOS.
    """
    if not _on_macos():
        raise EnvironmentIncomplete(
            NOT_HERE, where=str(path), cure="copy the bundle to a Mac and run the same command there"
        )
    try:
        import coremltools as ct
        from PIL import Image
    except ImportError as error:
        raise MissingDependency("coremltools", "running .mlpackage files", extra="coreml") from error
    model = ct.models.MLModel(str(path))
    spec = model.get_spec()
    name, takes_image = spec.description.input[0].name, spec.description.input[0].type.HasField("imageType")
    probabilities = spec.description.predictedProbabilitiesName
    labels = _class_labels(spec.mlProgram.functions["main"]) if probabilities else []

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        given = Image.fromarray(inputs[0]) if takes_image else inputs
        outputs = model.predict({name: given})
        if labels:
            return np.asarray([[outputs[probabilities][label] for label in labels]], dtype=np.float32)
        return np.asarray(next(iter(outputs.values())), dtype=np.float32)

    return run


def _spec_bytes(path: Path) -> bytes:
    file = path / _SPEC
    if not file.is_file():
        raise BadFile("not a Core ML package", where=f"{path} has no {_SPEC.as_posix()}")
    return file.read_bytes()


def _operation_types(block: memoryview) -> Iterator[str]:
    for operation in messages(block, 3):
        yield string(operation, 1)
        for inner in messages(operation, 4):
            yield from _operation_types(inner)


def operators(path: Path) -> Counter[str]:
    """Operation types of the ML Program, constants left out."""
    found: Counter[str] = Counter()
    for program in messages(_spec_bytes(path), 502):
        for function in messages(program, 2):
            for body in messages(function, 2):
                for specialization in messages(body, 3):
                    for block in messages(specialization, 2):
                        found.update(_operation_types(block))
    del found["const"]
    return found


def read_embedded(path: Path) -> str | None:
    """The manifest in the model description's user-defined metadata."""
    for number, description in fields(_spec_bytes(path)):
        if number == 2 and isinstance(description, memoryview):
            for metadata in messages(description, 100):
                return string_map(metadata, 100).get(MARKER)
    return None


BACKEND = Backend(
    name="coreml",
    suffix=".mlpackage",
    extra="coreml",
    packages=("torch", "coremltools"),
    runtime_packages=("coremltools",),
    layout=lambda variant: "image_nchw_float",
    half_program=lambda variant: False,
    input_name="image",
    output_name=f"{_LABEL}_probs",
    opset="ML Program",
    lower=lower,
    load=load,
    operators=operators,
    read_embedded=read_embedded,
    available=lambda variant: "" if _on_macos() else NOT_HERE,
)
