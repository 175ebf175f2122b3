"""Build a model by name with the weights asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgevit.core.digest import sha256_file
from edgevit.core.spec import ModelSpec, Preprocessing
from edgevit.errors import BadFile, EnvironmentIncomplete, MissingDependency, UsageError
from edgevit.models.checkpoints import load_state, read_checkpoint
from edgevit.models.labels import labels_for
from edgevit.models.registry import find_model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Weights:
    """Where a model's weights came from.

    Attributes:
        kind: ``pretrained``, ``random`` or ``file``.
        source: hub name, ``seed N`` or the file's name.
        sha256: of the file, or an empty string.
    """

    kind: Literal["pretrained", "random", "file"]
    source: str
    sha256: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """A classifier in eval mode with everything that export needs to know about it."""

    module: nn.Module
    spec: ModelSpec
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    weights: Weights


def load_model(
    name: str,
    *,
    weights: str = "pretrained",
    num_classes: int | None = None,
    labels: tuple[str, ...] | None = None,
    size: int | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Build a model.

    Args:
        name: see `edgevit.models.registry.find_model`.
        weights: ``pretrained``, ``random`` (live weights for tests and benchmarks), or a file.
        num_classes: head size; by default the labels' number or the model's own.
        labels: class names in output order.
        size: side of a square input in pixels; by default the model's own.
        seed: for random weights.

    Returns:
        The model, in eval mode, in float32 on the CPU.

    Raises:
        UsageError: unknown name, weights that do not fit, an impossible size.
        EnvironmentIncomplete: weights cannot be downloaded, or torch is not installed.
    """
    _require_torch()
    spec = find_model(name)
    classes = num_classes or (len(labels) if labels else spec.num_classes)
    names = labels_for(
        spec.labels if classes == spec.num_classes else "numbers", classes, labels or _own_labels(spec, classes)
    )
    side = (size, size) if size else spec.preprocessing.size
    if min(side) < 16 or max(side) > 4096:
        raise UsageError(
            f"an input of {side[0]}x{side[1]} pixels is out of range", cure="give --size between 16 and 4096"
        )
    if weights == "random":
        from edgevit.testing import wake

        module = _resize(_build(spec, classes, side), spec, side)
        _wake(wake, module, side, seed)
        origin = Weights("random", f"seed {seed}")
    elif weights == "pretrained":
        module, origin = _pretrained(spec, classes, side)
    else:
        module, origin = _from_file(spec, Path(weights), classes, side)
    return LoadedModel(module.eval().requires_grad_(False), spec, replace(spec.preprocessing, size=side), names, origin)


def _own_labels(spec: ModelSpec, classes: int) -> tuple[str, ...] | None:
    """The labels that a model in a folder brings, where they are one a class."""
    names = local_config(spec).get("label_names") if spec.origin == "local" else None
    return tuple(map(str, names)) if isinstance(names, list) and len(names) == classes else None


def _require_torch() -> None:
    try:
        from edgevit.models.mend import mend_torchvision

        mend_torchvision()
        import timm  # noqa: F401
    except ImportError as error:
        raise MissingDependency(error.name or "torch", "building a model", extra="torch") from error


def _wake(wake: Any, module: nn.Module, side: tuple[int, int], seed: int) -> None:
    try:
        wake(module, side, seed)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _bad_size(side, error) from error


def _bad_size(side: tuple[int, int], error: Exception) -> UsageError:
    return UsageError(
        f"the architecture cannot take an input of {side[0]}x{side[1]}",
        where=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
        cure="leave --size out to use the size the model was made for",
    )


def _build(spec: ModelSpec, classes: int, side: tuple[int, int], pretrained: bool = False) -> nn.Module:
    import timm

    if spec.origin == "bundled":
        from edgevit.models.bundled import build_bundled

        module = build_bundled(spec.source)
        if classes != spec.num_classes:
            module.reset_classifier(classes)  # type: ignore[operator]
        return module
    source, options = spec.source, {"num_classes": classes}
    if spec.origin == "local":
        config = local_config(spec)
        if "narrowed" in config:
            return _narrowed(spec, config, classes)
        options |= config.get("model_args", {})
    elif spec.origin == "hf-hub":
        source = spec.name
    if side != spec.preprocessing.size and spec.origin != "hf-hub":
        try:
            return timm.create_model(source, pretrained=pretrained, img_size=side[0], **options)
        except TypeError:
            pass
        except (AssertionError, ValueError, RuntimeError) as error:
            raise _bad_size(side, error) from error
    return timm.create_model(source, pretrained=pretrained, **options)


def local_config(spec: ModelSpec) -> dict[str, Any]:
    """The ``config.json`` of a model in a folder."""
    return json.loads((Path(spec.name) / "config.json").read_text(encoding="utf-8"))


def _narrowed(spec: ModelSpec, config: dict[str, Any], classes: int) -> nn.Module:
    """A sub-model of `edgevit split`: its original's architecture with fewer units, and a head of its own."""
    import timm

    from edgevit.models.bundled import BUILDERS, build_bundled
    from edgevit.models.narrow.cut import narrow

    given = config["narrowed"]
    try:
        if given["origin"] == "bundled" and spec.source in BUILDERS:
            module: Any = build_bundled(spec.source)
        else:
            options = {"num_classes": given["num_classes"], **config.get("model_args", {})}
            module = timm.create_model(spec.source, **options)
        narrow(module, given["widths"])
    except (KeyError, TypeError) as error:
        raise BadFile("the sub-model's config.json is not valid", where=f"{spec.name}: {error}") from error
    module.reset_classifier(classes)
    return module


def _resize(module: nn.Module, spec: ModelSpec, side: tuple[int, int]) -> nn.Module:
    if side != spec.preprocessing.size and hasattr(module, "set_input_size"):
        try:
            module.set_input_size(img_size=side)  # type: ignore[operator]
        except (AssertionError, ValueError, RuntimeError) as error:
            raise _bad_size(side, error) from error
    return module


def classifier_name(module: nn.Module) -> str | None:
    """Dotted name of the last layer, from timm's configuration or by looking for it."""
    cfg = getattr(module, "pretrained_cfg", None) or {}
    name = cfg.get("classifier")
    if isinstance(name, (tuple, list)):
        name = name[0]
    if name:
        return str(name)
    head = getattr(module, "get_classifier", lambda: None)()
    return next((path for path, child in module.named_modules() if child is head), None)


def _from_file(spec: ModelSpec, path: Path, classes: int, side: tuple[int, int]) -> tuple[nn.Module, Weights]:
    if path.is_dir():
        raise BadFile(f"{path} is a folder", cure="give --weights a .safetensors or .pth file")
    state = read_checkpoint(path)
    native = spec.preprocessing.size
    module = _build(spec, classes, native)
    load_state(module, state, source=path.name, classifier=classifier_name(module))
    return _resize(module, spec, side), Weights("file", path.name, sha256_file(path))


def bundled_weights(name: str) -> Path:
    """The weights file of a bundled model."""
    return Path(str(files("edgevit.models") / "weights" / f"{name}.safetensors"))


def _pretrained(spec: ModelSpec, classes: int, side: tuple[int, int]) -> tuple[nn.Module, Weights]:
    if classes != spec.num_classes:
        raise UsageError(
            f"the pretrained head has {spec.num_classes} classes, not {classes}: another head would be untrained",
            cure="give your own --weights FILE for another number of classes, or --weights random to try the toolchain",
        )
    if spec.origin == "bundled":
        module, origin = _from_file(spec, bundled_weights(spec.source), classes, side)
        return module, replace(origin, kind="pretrained", source=spec.name)
    if spec.origin == "local":
        candidates = [Path(spec.name) / leaf for leaf in ("model.safetensors", "pytorch_model.bin")]
        path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
        return _from_file(spec, path, classes, side)
    return _download(spec, classes, side)


def _download(spec: ModelSpec, classes: int, side: tuple[int, int]) -> tuple[nn.Module, Weights]:
    hub = spec.name.removeprefix("hf-hub:") if spec.origin == "hf-hub" else f"timm/{spec.source}"
    try:
        module = _resize(_build(spec, classes, spec.preprocessing.size, pretrained=True), spec, side)
    except UsageError:
        raise
    except Exception as error:
        raise EnvironmentIncomplete(
            f"the pretrained weights of {spec.name} could not be downloaded",
            where=f"https://huggingface.co/{hub}: {type(error).__name__}",
            cure=f"with a network: hf download {hub} model.safetensors; then pass --weights FILE "
            "(or --weights random to try the toolchain)",
        ) from error
    return module, Weights("pretrained", f"hf-hub:{hub}")
