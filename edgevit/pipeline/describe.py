"""Manifests and cache keys of an export, computed before it is made."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from edgevit.backends.base import Backend, find_backend
from edgevit.core.digest import code_digest, package_versions, sha256_value
from edgevit.errors import UsageError
from edgevit.models.checkpoints import weights_digest
from edgevit.models.load import LoadedModel
from edgevit.pipeline.options import ExportOptions
from edgevit.schema.manifest import (
    InputInfo,
    Manifest,
    ModelInfo,
    OutputInfo,
    PreprocessInfo,
    QuantizationInfo,
    TargetInfo,
    WeightsInfo,
)
from edgevit.schema.recipe import Recipe
from edgevit.schema.target import Runtime, check_precision, resolve_target

SHARED_PACKAGES = ("torch", "timm", "numpy")


def resolve_targets(options: ExportOptions) -> list[Runtime]:
    """The requested runtimes, each once, in order.

    Raises:
        UsageError: none was given, one is unknown, or one does not take the precision.
    """
    if not options.targets:
        raise UsageError("no target was given", cure="add -t coreml, -t litert, -t executorch or -t onnx")
    found: list[Runtime] = []
    for name in options.targets:
        runtime = resolve_target(name)
        check_precision(runtime, options.precision)
        if options.keep_fp32:
            _check_keep_fp32(runtime, options.precision)
        if runtime not in found:
            found.append(runtime)
    return found


def _check_keep_fp32(runtime: Runtime, precision: str) -> None:
    if precision != "fp16":
        raise UsageError("--keep-fp32 is for fp16 programs", cure="add --precision fp16")
    if not find_backend(runtime.backend).keeps_fp32(runtime.variant):
        raise UsageError(
            f"{runtime.name} cannot keep single operations in fp32",
            cure="leave --keep-fp32 out for this target, or choose --precision fp32",
        )


def toolchain_versions(backend: Backend) -> dict[str, str]:
    """Versions of all packages that influence what a backend writes."""
    return package_versions((*SHARED_PACKAGES, *backend.packages, *backend.runtime_packages))


def cache_key(options: ExportOptions, runtime: Runtime, recipe: Recipe | None = None) -> str | None:
    """Everything that decides one bundle, hashed; None where that cannot be told beforehand.

    The options' own fields say whether they decide. A file counts by its content; pictures and models that can change
    under the same name are not cached at all. ``recipe`` is the one that the options name.
    """
    if options.model.startswith("hf-hub:") or options.images is not None:
        return None
    if any(given and not given.startswith("digits:") for given in (options.calib, options.evaluate)):
        return None
    if Path(options.model).is_dir() and options.weights == "pretrained":
        return None
    values = options.deciding()
    if options.weights not in ("pretrained", "random"):
        values["weights"] = [weights_digest(Path(options.weights)), Path(options.weights).name]
    if options.weights != "random":
        del values["seed"]  # nothing else is drawn
    values["recipe"] = recipe.digest if recipe else None
    return sha256_value(
        {
            "options": values,
            "runtime": runtime.model_dump(mode="json"),
            "code": code_digest(),
            "tools": toolchain_versions(find_backend(runtime.backend)),
        }
    )


def describe(
    loaded: LoadedModel, options: ExportOptions, runtime: Runtime, quantization: QuantizationInfo | None = None
) -> Manifest:
    """The manifest of one artifact, without the parts that only the export can tell."""
    backend = find_backend(runtime.backend)
    rule, image = loaded.preprocessing, options.input == "image"
    bytes_in = image and (backend.layout(runtime.variant) == "image_nhwc_uint8" or backend.suffix == ".mlpackage")
    height, width = rule.size
    probabilities = options.output == "probabilities"
    return Manifest(
        edgevit=metadata.version("edgevit"),
        model=ModelInfo(
            name=loaded.spec.name if loaded.spec.origin != "local" else Path(loaded.spec.name).name,
            family=loaded.spec.family,
            source=loaded.spec.source,
            parameters=sum(parameter.numel() for parameter in loaded.module.parameters()),
            licence=loaded.spec.licence,
            weights=WeightsInfo(kind=loaded.weights.kind, source=loaded.weights.source, sha256=loaded.weights.sha256),
        ),
        target=TargetInfo(
            backend=runtime.backend,
            runtime=runtime.name,
            precision=options.precision,
            keep_fp32=options.keep_fp32,
            rewrites=options.rewrites,
        ),
        toolchain=toolchain_versions(backend),
        entry=f"{file_stem(loaded)}{backend.suffix}",
        input=InputInfo(
            name=backend.input_name,
            kind=options.input,
            layout="NHWC" if bytes_in else "NCHW",
            dtype="uint8" if bytes_in else "float32",
            shape=(1, height, width, 3) if bytes_in else (1, 3, height, width),
            values="0..255" if image else "normalised",
        ),
        preprocess=PreprocessInfo.of(rule, normalise_in_graph=image),
        output=OutputInfo(
            name=backend.output_name if probabilities else options.output,
            kind=options.output,
            classes=getattr(loaded.module, "width", 0) if options.output == "features" else len(loaded.labels),
        ),
        labels=loaded.labels,
        opset=backend.opset,
        quantization=quantization,
    )


def file_stem(loaded: LoadedModel) -> str:
    """A model's name as a file name."""
    name = loaded.spec.name
    if loaded.spec.origin == "local":
        name = Path(name).resolve().name
    return model_folder(name)


def model_folder(name: str) -> str:
    """A model's name as a folder name: letters, digits, dots, dashes and underscores."""
    plain = Path(name).resolve().name if Path(name).is_dir() else name.removeprefix("hf-hub:")
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in plain).strip(".") or "model"
