"""Builds a model by name with the requested weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from inspect import signature
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgevit.errors import BadFile, EdgevitError, MissingDependency, UsageError, WeightsMismatch
from edgevit.models.checkpoints import Checkpoint, StateDict, read_checkpoint, weights_digest
from edgevit.models.fit import Fit, copies, fit
from edgevit.models.hub import build_published
from edgevit.models.labels import label_mismatch, labels_for
from edgevit.models.mismatch import Misfit, head_size, mismatch
from edgevit.models.published import EMBEDDING, IMAGENET_CLASSES, NO_CLASSIFIER
from edgevit.models.registry import find_model, local_config, zoo
from edgevit.schema.choices import OutputKind
from edgevit.schema.model import ModelSpec, Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

MIN_SIDE = 16
"""Pixels of the smallest accepted input side."""
MAX_SIDE = 4096
"""Pixels of the largest accepted input side."""
_TRIED_VARIANTS = 8
"""Most relatives that a checkpoint which does not fit is held against: each costs a tenth of a second."""


@dataclass(frozen=True)
class Weights:
    """The origin of a model's weights.

    Attributes:
        kind: ``pretrained``, ``random`` or ``file``.
        source: hub name, URL, ``seed N`` or the file's name, with what was taken of it where that was a choice.
        sha256: of the file, or an empty string.
    """

    kind: Literal["pretrained", "random", "file"]
    source: str
    sha256: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with all facts that an export needs.

    Attributes:
        module: float32 [B, 3, H, W] to [B, classes], or to [B, width] where it gives features.
        notes: messages for the user about how it was loaded, one line each.
    """

    module: nn.Module
    spec: ModelSpec
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    weights: Weights
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Request:
    """The arguments of `load_model`; ``side`` is (H, W) of the input."""

    spec: ModelSpec
    side: tuple[int, int]
    num_classes: int | None
    labels: tuple[str, ...] | None
    output: OutputKind

    @property
    def features(self) -> bool:
        """Whether the classifier is left out."""
        return self.output == "features"

    @property
    def classes(self) -> int | None:
        """The requested number of classes, from the number or the labels."""
        return self.num_classes or (len(self.labels) if self.labels else None)


def load_model(
    name: str,
    *,
    weights: str = "pretrained",
    num_classes: int | None = None,
    labels: tuple[str, ...] | None = None,
    size: int | None = None,
    seed: int = 0,
    output: OutputKind = "logits",
) -> LoadedModel:
    """Build a model.

    Args:
        name: see `edgevit.models.registry.find_model`.
        weights: ``pretrained``, ``random`` (live weights for tests and benchmarks), or a file or folder.
        num_classes: head size; by default the labels' number or that of the published head.
        labels: class names in output order.
        size: side of a square input in pixels; by default the model's own.
        seed: for random weights.
        output: ``probabilities`` or ``logits`` of a classifier; or ``features``: what the classifier would see, for
            which neither the weights nor the file need one.

    Returns:
        The model, in eval mode, in float32 on the CPU. For ``features`` its module is a
        `edgevit.models.features.Headless` and there are no labels; otherwise it gives logits.

    Raises:
        UsageError: unknown name, no classifier in the weights, weights that do not fit, an impossible size.
        EnvironmentIncomplete: weights cannot be downloaded, or torch is not installed.
    """
    _require_torch()
    _check_request(num_classes, labels, size, output)
    spec = find_model(name)
    request = _Request(spec, (size, size) if size is not None else spec.preprocessing.size, num_classes, labels, output)
    _check_side(request.side)
    notes: tuple[str, ...] = ()
    if weights == "random":
        module, origin = _random(request, seed)
    elif weights == "pretrained":
        module, origin, notes = _pretrained(request)
    else:
        module, origin, notes = _from_file(request, Path(weights))
    rule = replace(spec.preprocessing, size=request.side)
    loaded = LoadedModel(module.eval().requires_grad_(False), spec, rule, (), origin, notes)
    if request.features:
        from edgevit.models.features import headless

        return headless(loaded)
    return replace(loaded, labels=_labels(request, module))


def _check_request(num_classes: int | None, labels: tuple[str, ...] | None, size: Any, output: OutputKind) -> None:
    if num_classes is not None and num_classes < 1:
        raise UsageError(
            f"a head of {num_classes} classes is none", cure="for a model without its classifier: --output features"
        )
    if num_classes == 1 and output != "features":
        raise _one_class("a head of one class is asked for")
    if num_classes is not None and labels is not None and len(labels) != num_classes and output != "features":
        raise label_mismatch(labels, f"--num-classes is {num_classes}")
    if size is not None and type(size) is not int:
        raise UsageError(
            f"this version takes square inputs only, not {size}", cure="give one number: --size 224, in Python size=224"
        )


def _one_class(what: str) -> UsageError:
    return UsageError(
        f"{what}: softmax over one class is always 1, and this version has no sigmoid heads",
        cure="make it two classes, a row of zeros before the head's own (softmax of 0 and z is sigmoid of z), "
        "and pass --num-classes 2",
    )


def _check_side(side: tuple[int, int]) -> None:
    if min(side) < MIN_SIDE or max(side) > MAX_SIDE:
        raise UsageError(
            f"an input of {side[0]}x{side[1]} pixels is out of range",
            cure=f"give --size between {MIN_SIDE} and {MAX_SIDE}",
        )


def _labels(request: _Request, module: nn.Module) -> tuple[str, ...]:
    """The labels given, those that the model brings, or the names of the set that its head was trained on."""
    spec = request.spec
    classes = request.num_classes or (len(request.labels) if request.labels else _outputs(module, spec))
    if request.labels is not None:
        return labels_for("", classes, request.labels)
    if classes != spec.num_classes:
        return labels_for("", classes, None)
    return labels_for(spec.labels, classes, _own_labels(spec, module))


def _outputs(module: nn.Module, spec: ModelSpec) -> int:
    """The number of outputs of a built model."""
    return int(getattr(module, "num_classes", spec.num_classes))


def _own_labels(spec: ModelSpec, module: nn.Module) -> tuple[str, ...] | None:
    """The labels stored with a model in a folder or on the hub.

    Raises:
        BadFile: they are not one a class.
    """
    if spec.origin == "local":
        config = local_config(spec.name)
        names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    elif spec.origin == "hf-hub":
        names = getattr(module, "pretrained_cfg", {}).get("label_names")
    else:
        return None
    if not isinstance(names, (list, tuple)) or not names:
        return None
    if len(names) != spec.num_classes:
        raise BadFile(
            f"the model's config.json names {len(names)} labels, its head has {spec.num_classes} classes",
            where=spec.name,
            cure="give the right ones: --labels FILE",
        )
    return tuple(map(str, names))


def _require_torch() -> None:
    try:
        from edgevit.models.torchvision_fix import fix_torchvision_import

        fix_torchvision_import()
        import timm  # noqa: F401
    except ImportError as error:
        raise MissingDependency(error.name or "torch", "building a model", extra="torch") from error


def _random(request: _Request, seed: int) -> tuple[nn.Module, Weights]:
    from edgevit.testing import wake

    spec = request.spec
    classes = request.classes or spec.num_classes
    if not classes and not request.features:
        classes = IMAGENET_CLASSES
    module = _resize(_build(spec, classes, request.side), spec, request.side)
    _wake(wake, module, request.side, seed)
    return module, Weights("random", f"seed {seed}")


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
        config = local_config(spec.name)
        if "narrowed" in config:
            return _narrowed(spec, config, classes)
        options |= config.get("model_args", {})
    elif spec.origin == "hf-hub":
        source = spec.name
    if side != spec.preprocessing.size and spec.origin != "hf-hub":
        try:
            return timm.create_model(source, pretrained=pretrained, **{**options, "img_size": side[0]})
        except TypeError:
            pass
        except (AssertionError, ValueError, RuntimeError) as error:
            raise _bad_size(side, error) from error
    return timm.create_model(source, pretrained=pretrained, **options)


def _narrowed(spec: ModelSpec, config: dict[str, Any], classes: int) -> nn.Module:
    """A sub-model of `edgevit split`: the original's architecture with fewer units, and its own head."""
    import timm

    from edgevit.compress.width.cut import narrow
    from edgevit.models.bundled import BUILDERS, build_bundled

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
    """The model for another input size; position embeddings are resampled if it has some."""
    if side != spec.preprocessing.size and hasattr(module, "set_input_size"):
        try:
            module.set_input_size(img_size=side)  # type: ignore[operator]
        except (AssertionError, ValueError, RuntimeError) as error:
            raise _bad_size(side, error) from error
    return module


def _runs(module: nn.Module, spec: ModelSpec, side: tuple[int, int]) -> nn.Module:
    """The model, after a test run on its new input size."""
    import torch

    if side != spec.preprocessing.size:
        try:
            with torch.no_grad():
                module.eval()(torch.zeros(1, 3, *side))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise _bad_size(side, error) from error
    return module


def classifier_names(module: nn.Module) -> tuple[str, ...]:
    """Dotted names of the last layers, from timm's configuration or by looking for them; several where distilled."""
    names = (getattr(module, "pretrained_cfg", None) or {}).get("classifier")
    if names:
        return tuple(map(str, names)) if isinstance(names, (tuple, list)) else (str(names),)
    head = getattr(module, "get_classifier", lambda: None)()
    heads = head if isinstance(head, (tuple, list)) else (head,)
    return tuple(path for path, child in module.named_modules() if any(child is one for one in heads))


def classifier_name(module: nn.Module) -> str | None:
    """Dotted name of the last layer; the first where there are several."""
    names = classifier_names(module)
    return names[0] if names else None


def _first_convs(module: nn.Module) -> tuple[str, ...]:
    import torch

    names = (getattr(module, "pretrained_cfg", None) or {}).get("first_conv")
    if names:
        return tuple(names) if isinstance(names, (tuple, list)) else (str(names),)
    first = next((path for path, child in module.named_modules() if isinstance(child, torch.nn.Conv2d)), None)
    return (first,) if first else ()


def bundled_weights(name: str) -> Path:
    """The weights file of a bundled model."""
    return Path(str(files("edgevit.models") / "weights" / f"{name}.safetensors"))


def _pretrained(request: _Request) -> tuple[nn.Module, Weights, tuple[str, ...]]:
    spec = request.spec
    if not request.features:
        _check_published_head(request)
    if spec.origin == "bundled":
        module, origin, notes = _from_file(request, bundled_weights(spec.source))
        return module, replace(origin, kind="pretrained", source=spec.name), notes
    if spec.origin == "local":
        return _from_file(request, Path(spec.name))
    classes = spec.num_classes
    module, digest = build_published(spec, lambda: _build(spec, classes, spec.preprocessing.size, pretrained=True))
    _check_finite(module.state_dict(), spec.weights)
    module = _runs(_resize(module, spec, request.side), spec, request.side)
    return module, Weights("pretrained", spec.weights, digest), ()


def _check_published_head(request: _Request) -> None:
    """Refuse a request that the published weights cannot satisfy.

    Raises:
        UsageError: they have no classifier, a projection that is none, or another number of classes.
    """
    spec = request.spec
    if spec.labels == NO_CLASSIFIER:
        raise _no_classifier(f"the published weights of {spec.name}", spec.weights)
    if spec.labels == EMBEDDING and request.output == "probabilities":
        raise _embedding(spec)
    if request.num_classes is not None and request.num_classes != spec.num_classes:
        raise UsageError(
            f"the pretrained head has {spec.num_classes} classes, not {request.num_classes}: "
            "another head would be untrained",
            cure="give your own --weights FILE for another number of classes, or --weights random to try the toolchain",
        )
    if request.labels is not None and len(request.labels) != spec.num_classes:
        raise label_mismatch(request.labels, f"the published head of {spec.name} has {spec.num_classes} classes")


def _no_classifier(what: str, where: str) -> UsageError:
    return UsageError(
        f"there is no classifier in {what}",
        where=where,
        cure="export what they compute: edgevit export with --output features; "
        "or give a model with a head of your own: --weights FILE --num-classes N",
    )


def _embedding(spec: ModelSpec) -> UsageError:
    return UsageError(
        f"the head of {spec.name} is no classifier: it projects to an embedding of {spec.num_classes} numbers",
        where=spec.weights,
        cure="export the embedding with --output logits, or what precedes it with --output features",
    )


def _from_file(request: _Request, path: Path) -> tuple[nn.Module, Weights, tuple[str, ...]]:
    """A model with the weights of a file, built at the size that they fit: the requested one, or the model's own."""
    spec = request.spec
    checkpoint = read_checkpoint(path)
    classes = spec.num_classes if request.features else request.classes or spec.num_classes or IMAGENET_CLASSES
    decided = bool(request.features or request.classes or spec.num_classes)
    first: _Attempt | None = None
    for side in dict.fromkeys((request.side, spec.preprocessing.size)):
        attempt = _attempt(request, checkpoint, classes, side)
        if not decided and attempt.head not in (None, classes):
            classes = int(attempt.head or 0)
            attempt = _attempt(request, checkpoint, classes, side)
        if attempt.found.faults == 0:
            return _filled(request, path, checkpoint, attempt)
        first = first or attempt
    assert first is not None
    raise _misfit(request, path, checkpoint, first)


@dataclass(frozen=True)
class _Attempt:
    """A model built at one size, and the fit of a checkpoint to it."""

    module: nn.Module
    side: tuple[int, int]
    found: Fit
    classifiers: tuple[str, ...]

    @property
    def head(self) -> int | None:
        """The number of classes in the checkpoint."""
        return head_size(self.found.state, self.classifiers)


def _attempt(request: _Request, checkpoint: Checkpoint, classes: int, side: tuple[int, int]) -> _Attempt:
    spec = request.spec
    module = _resize(_build(spec, classes, side), spec, side)
    classifiers = classifier_names(module)
    own, ignore = module.state_dict(), classifiers if request.features else ()
    buffers = _computed(module)
    found = fit(checkpoint.tensors, own, buffers, ignore)
    if found.faults:
        converted = _by_timm(spec, module, found, own)
        again = fit(converted, own, buffers, ignore) if converted else found
        if again.faults == 0:
            found = replace(again, prefix=found.prefix, dropped=found.dropped)
    return _Attempt(module, side, found, classifiers)


def _computed(module: nn.Module) -> frozenset[str]:
    """Names of buffers that the architecture determines; running statistics are not among them."""
    learnt = ("running_mean", "running_var")
    return frozenset(name for name, _ in module.named_buffers() if not name.endswith(learnt))


_POSITIONS = ("pos_embed", "rel_pos", "relative_position_bias_table", "attention_biases")


def _by_timm(spec: ModelSpec, module: nn.Module, found: Fit, own: StateDict) -> StateDict | None:
    """The tensors as renamed by timm's own reader of the architecture's official layouts.

    None where it has no such reader, or where it resampled position embeddings: a file of another size is not taken
    for one of this size.
    """
    from timm.models import model_entrypoint

    if spec.origin == "bundled":
        return None
    architecture = spec.source.partition(".")[0]
    home = sys.modules[model_entrypoint(architecture).__module__]
    convert = getattr(home, "checkpoint_filter_fn", None)
    if convert is None:
        return None
    state: StateDict | None = None
    with suppress(Exception):  # written for one layout each, it fails in any way on others
        options = {"adapt_layer_scale": True} if "adapt_layer_scale" in signature(convert).parameters else {}
        state = dict(convert(dict(found.state), module, **options))
    if state is None:
        return None
    sizes = {value.numel() for value in found.state.values()}
    moved = [key for key in state if key in own and any(name in key for name in _POSITIONS)]
    return state if all(state[key].numel() in sizes for key in moved) else None


def _filled(
    request: _Request, path: Path, checkpoint: Checkpoint, attempt: _Attempt
) -> tuple[nn.Module, Weights, tuple[str, ...]]:
    spec, module, found = request.spec, attempt.module, attempt.found
    own = module.state_dict()
    if spec.labels == EMBEDDING and request.output == "probabilities" and request.classes is None:
        raise _embedding(spec)
    whole_numbers = [key for key, value in own.items() if value.is_floating_point() and key in found.state]
    if any(not found.state[key].is_floating_point() for key in whole_numbers):
        raise _misfit(request, path, checkpoint, attempt)
    others = copies(checkpoint.tensors, own, _computed(module), found)
    if others:
        raise WeightsMismatch(
            f"the checkpoint holds the model more than once: {', '.join(sorted([found.prefix, *others]))}",
            where=str(path),
            cure="save the one that is meant alone: torch.save(model.state_dict(), FILE)",
        )
    state = {key: value for key, value in found.state.items() if key in own and value.shape == own[key].shape}
    _check_finite(state, str(path))
    module.load_state_dict(state, strict=False)
    module = _runs(_resize(module, spec, request.side) if attempt.side != request.side else module, spec, request.side)
    taken = ".".join(part for part in (checkpoint.taken, found.prefix.rstrip(".")) if part)
    chosen = checkpoint.averaged or found.averaged or "teacher" in taken
    kind = "averaged (EMA)" if checkpoint.averaged or found.averaged else "teacher's"
    notes = (f"the {kind} weights were taken from {path.name}: {taken or 'n_averaged'}",) if chosen else ()
    source = f"{path.name} ({taken or 'averaged'})" if chosen else path.name
    return module, Weights("file", source, weights_digest(path)), notes


def _check_finite(state: StateDict | dict[str, torch.Tensor], source: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        BadFile: names the tensors.
    """
    bad = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise BadFile(
            "the weights hold NaN or infinity",
            where=f"{source}: {', '.join(bad[:3])}{more}",
            cure="give a checkpoint from before the training diverged",
        )


def _misfit(request: _Request, path: Path, checkpoint: Checkpoint, attempt: _Attempt) -> EdgevitError:
    """The error that explains why nothing fits: the head, the size, another variant, or the kind of checkpoint."""
    spec, found = request.spec, attempt.found
    own = attempt.module.state_dict()
    heads = {f"{name}.{leaf}" for name in attempt.classifiers for leaf in ("weight", "bias")}
    only_heads = not set(found.missing) - heads and not set(found.differ) - heads and not found.unknown
    if only_heads and attempt.head != head_size(own, attempt.classifiers):
        if attempt.head is None:
            return _no_classifier(f"the checkpoint {path.name}", str(path))
        return _other_head(request, path, attempt)
    first = _first_convs(attempt.module)
    error = mismatch(Misfit(found, checkpoint.tensors, path.name, own, attempt.classifiers, first, spec.name))
    if "does not fit" not in error.message:
        return error
    trained = _trained_at(request, checkpoint, attempt)
    if trained:
        side = attempt.side
        error.message = (
            f"the checkpoint was trained on {trained}x{trained} pixels, the model is for {side[0]}x{side[1]}"
        )
        error.cure = f"pass --size {trained}"
        return error
    fitting = _fitting_variant(request, checkpoint)
    if fitting:
        error.message, error.cure = f"the checkpoint is one of {fitting}, not of {spec.name}", f"name it: {fitting}"
    return error


def _other_head(request: _Request, path: Path, attempt: _Attempt) -> UsageError:
    head, classifier = attempt.head, attempt.classifiers[0]
    if request.labels is not None and request.num_classes is None:
        return label_mismatch(request.labels, f"the head in {path.name} has {head} class{'' if head == 1 else 'es'}")
    if head == 1:
        return _one_class(f"the head in {path.name} has one class")
    return WeightsMismatch(
        f"the checkpoint's head has {head} classes, the model's "
        f"{head_size(attempt.module.state_dict(), attempt.classifiers)}",
        where=f"{path.name}: {classifier}.weight",
        cure=f"pass --num-classes {head}",
    )


def _trained_at(request: _Request, checkpoint: Checkpoint, attempt: _Attempt) -> int | None:
    """The input side that a checkpoint was trained at, from its position embeddings, if it then fits."""
    module: Any = attempt.module
    found = attempt.found
    positions = [key for key in found.differ if "pos_embed" in key and found.state[key].dim() == 3]
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if not positions or patch is None:
        return None
    tokens = int(found.state[positions[0]].shape[1])
    sides = {
        isqrt(tokens - extra) * int(patch[0]) for extra in (0, 1, 2) if isqrt(tokens - extra) ** 2 == tokens - extra
    }
    classes = attempt.head if attempt.head and not request.features else _outputs(module, request.spec)
    for side in sorted(sides):
        if MIN_SIDE <= side <= MAX_SIDE:
            with suppress(EdgevitError):
                if _attempt(request, checkpoint, classes, (side, side)).found.faults == 0:
                    return side
    return None


def _fitting_variant(request: _Request, checkpoint: Checkpoint) -> str | None:
    """A related known model that a checkpoint fits."""
    for spec in _relatives(request.spec):
        with suppress(Exception):  # not every architecture can be built without memory for its weights
            module = _without_memory(spec)
            classifiers = classifier_names(module)
            if fit(checkpoint.tensors, module.state_dict(), _computed(module), classifiers).faults == 0:
                return spec.name
    return None


def _relatives(spec: ModelSpec) -> Iterator[ModelSpec]:
    stem = spec.source.split("_")[0]
    near = [
        other
        for other in zoo().values()
        if other.name != spec.name and (other.family == spec.family or other.source.split("_")[0] == stem)
    ]
    yield from near[:_TRIED_VARIANTS]


def _without_memory(spec: ModelSpec) -> nn.Module:
    import torch

    with torch.device("meta"):
        return _build(spec, spec.num_classes, spec.preprocessing.size)
