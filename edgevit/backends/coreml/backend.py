"""Core ML: ML Programs written by coremltools.

On macOS Core ML itself executes them; elsewhere edgevit's own evaluator does, from the saved file.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Backend, FileInterface, LowerRequest, Runner, one_at_a_time
from edgevit.backends.coreml import convert
from edgevit.errors import UsageError, import_failed
from edgevit.mil import TITLE
from edgevit.mil.package import MODULES, Package, read_metadata, read_package
from edgevit.schema.manifest import MARKER, InputInfo, Manifest

if TYPE_CHECKING:
    from edgevit.graph.qdq.prepare import Form

_LABEL = "classLabel"


def _on_macos() -> bool:
    return sys.platform == "darwin"


def lower(request: LowerRequest) -> None:
    """Write an .mlpackage: an image (or tensor) in, a classifier with labels (or logits) out."""
    import edgevit.backends.coreml.import_coremltools  # noqa: F401, I001 - imports coremltools faster than it does itself
    import coremltools as ct

    manifest = request.manifest
    convert.register_operators()
    options: dict[str, Any] = {}
    if manifest.output.kind == "probabilities":
        options["classifier_config"] = ct.ClassifierConfig(list(manifest.labels), predicted_feature_name=_LABEL)
    else:
        options["outputs"] = [ct.TensorType(name=manifest.output.name)]
    kept = convert.KeepFp32(manifest.target.keep_fp32)
    half = manifest.target.precision != "fp32"
    model = ct.convert(
        convert.tag_modules(request.program.run_decompositions({})),
        inputs=[_input_type(manifest)],
        minimum_deployment_target=getattr(ct.target, request.version),
        compute_precision=ct.transform.FP16ComputePrecision(kept.selector()) if half else ct.precision.FLOAT32,
        skip_model_load=True,
        pass_pipeline=convert.exact_pipeline(quantized=request.recipe is not None),
        **options,
    )
    if not request.partial:
        kept.check()
    model.author, model.license, model.version = "edgevit", manifest.model.licence, manifest.edgevit
    model.short_description = f"{manifest.model.name}: {manifest.output.classes} classes"
    model.user_defined_metadata[MARKER] = manifest.embedded()
    model.user_defined_metadata[MODULES] = convert.module_map(model._mil_program)
    model.save(str(request.out))
    check_saved(request.out, manifest)


def _quantized_form() -> Form:
    from edgevit.graph.qdq.prepare import Form

    return Form(carrying="toolchain")


def _input_type(manifest: Manifest) -> Any:
    import coremltools as ct

    shape = (1, 3, *manifest.preprocess.size)
    if manifest.input.kind == "image":
        return ct.ImageType(name=manifest.input.name, shape=shape, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=manifest.input.name, shape=shape, dtype=np.float32)


def check_saved(path: Path, manifest: Manifest) -> None:
    """Read a saved package back and compare its interface with the manifest.

    Raises:
        ValueError: the package does not say what the manifest says.
    """
    package = read_package(path)
    source = package.inputs[0]
    if source.name != manifest.input.name:
        raise ValueError(f"the saved input is called {source.name}")
    if manifest.input.kind == "image" and source.size != manifest.preprocess.size:
        raise ValueError("the saved image input is {}x{}".format(*(source.size or (0, 0))))
    if manifest.output.kind == "probabilities" and package.classes() != manifest.labels:
        raise ValueError("the saved class labels differ from the manifest's")


def load(path: Path) -> Runner:
    """A function from one input to its scores: Core ML's on macOS, the evaluator's elsewhere.

    Raises:
        MissingDependency: coremltools (macOS) or torch is not installed.
        BadFile: the package is damaged.
    """
    if _on_macos():
        return _load_in_core_ml(path)
    try:
        from edgevit.mil.runner import load as load_in_evaluator
    except ImportError as error:
        raise import_failed(error, "torch", "running .mlpackage files", extra="torch") from error
    return load_in_evaluator(path)


def _load_in_core_ml(path: Path) -> Runner:
    try:
        import coremltools as ct
        from PIL import Image
    except ImportError as error:
        raise import_failed(error, "coremltools", "running .mlpackage files", extra="coreml") from error
    package: Package = read_package(path)
    model = ct.models.MLModel(str(path))
    source, labels = package.inputs[0], package.classes()

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        given = Image.fromarray(inputs[0]) if source.kind == "image" else inputs
        outputs = model.predict({source.name: given})
        if labels:
            return np.asarray([[outputs[package.probabilities_output][label] for label in labels]], dtype=np.float32)
        return np.asarray(next(iter(outputs.values())), dtype=np.float32)

    return one_at_a_time(run)


def operators(path: Path) -> Counter[str]:
    """Operation types of the ML Program, constants left out."""
    return Counter(one.type for one in read_package(path).function.operations if one.type != "const")


def read_embedded(path: Path) -> str | None:
    """The manifest in the model description's user-defined metadata."""
    return read_metadata(path).get(MARKER)


def describe(path: Path) -> FileInterface:
    """What a package of any tool takes and gives: one image, or one tensor [1, 3, H, W].

    Raises:
        UsageError: it takes something else, or several things.
    """
    package = read_package(path)
    source = package.only_input()
    halves = any(
        output.type is not None and output.type.dtype.name == "fp16"
        for one in package.function.operations
        for output in one.outputs
        if one.type != "const"
    )
    if source.kind == "image" and source.size:
        shape, kind = (1, *source.size, 3), "image"
    elif source.kind == "array" and len(source.shape) == 4 and source.shape[:2] == (1, 3):
        shape, kind = source.shape, "tensor"
    else:
        raise UsageError(
            f"the package takes {source.kind} {list(source.shape)}, not an image or a tensor [1, 3, H, W]",
            where=str(path),
        )
    image = kind == "image"
    info = InputInfo.model_validate(
        {
            "name": source.name,
            "kind": kind,
            "layout": "NHWC" if image else "NCHW",
            "dtype": "uint8" if image else "float32",
            "shape": shape,
            "values": "0..255" if image else "normalised",
        }
    )
    return FileInterface(info, "probabilities" if package.classes() else "", "fp16" if halves else "fp32")


BACKEND = Backend(
    name="coreml",
    suffix=".mlpackage",
    extra="coreml",
    packages=("torch", "coremltools"),
    runtime_packages=("coremltools",) if _on_macos() else ("torch",),
    layout=lambda variant: "image_nchw_float",
    half_program=lambda variant: False,
    input_name="image",
    output_name=f"{_LABEL}_probs",
    opset="ML Program",
    lower=lower,
    load=load,
    operators=operators,
    read_embedded=read_embedded,
    available=lambda variant: "",
    engine="Core ML" if _on_macos() else TITLE,
    keeps_fp32=lambda variant: True,
    quantized_form=_quantized_form,
    describe=describe,
    effort=16,
    imports=("edgevit.graph.prepare", "edgevit.backends.coreml.import_coremltools"),
)
