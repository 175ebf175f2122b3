"""Model names: the zoo, the bundled models, and any other timm image classifier."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgevit.errors import BadFile, EnvironmentIncomplete, MissingDependency, UnknownName, UsageError
from edgevit.models.published import (
    EMBEDDING,
    IMAGENET_CLASSES,
    foreign_head_kind,
    head_kind,
    weights_location,
)
from edgevit.schema.model import ModelSpec, Preprocessing

_SIDE_LIMIT = 1 << 14
"""Largest number accepted for a channel count or side in a hub's configuration file, which anybody may have written."""


@lru_cache(maxsize=1)
def zoo() -> dict[str, ModelSpec]:
    """All models that edgevit knows by name, in family order; needs no torch."""
    rows = json.loads((files("edgevit.models") / "zoo.json").read_text(encoding="utf-8"))
    specs = (ModelSpec.from_dict(row) for row in rows)
    return {spec.name: spec for spec in specs}


@lru_cache(maxsize=1)
def converting_formats() -> dict[str, dict[str, tuple[str, ...]]]:
    """By family and precision, the formats in which its smallest member was exported and judged right.

    Measured by ``tools/sweep.py`` (docs/support.md); a format that is absent failed or was not run.
    """
    rows = json.loads((files("edgevit.models") / "formats.json").read_text(encoding="utf-8"))
    return {family: {precision: tuple(formats) for precision, formats in row.items()} for family, row in rows.items()}


def list_models(pattern: str = "*") -> list[ModelSpec]:
    """The known models whose name or family matches a glob, case ignored."""
    wanted = pattern.lower()
    if not any(mark in wanted for mark in "*?["):
        wanted = f"*{wanted}*"
    return [
        spec
        for spec in zoo().values()
        if fnmatchcase(spec.name.lower(), wanted) or fnmatchcase(spec.family.lower(), wanted)
    ]


def find_model(name: str) -> ModelSpec:
    """The spec of a model by its name.

    Args:
        name: a name that `list_models` gives, any timm classifier with or without a weight tag,
            ``hf-hub:OWNER/REPO``, or a local timm directory (one with a ``config.json``).

    Raises:
        UnknownName: nothing of that name; the nearest names are in the message.
        BadFile: a folder whose config.json is not timm's.
        UsageError: the model takes other pictures than RGB.
        EnvironmentIncomplete: the configuration on the hub cannot be read.
        MissingDependency: the name needs timm and timm is not installed.
    """
    if name in zoo():
        return zoo()[name]
    if (Path(name) / "config.json").is_file():
        return _from_config(name, local_config(name))
    return _from_timm(name)


def local_config(folder: str) -> dict[str, Any]:
    """The ``config.json`` of a local model folder.

    Raises:
        BadFile: not JSON, or not timm's.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFile("the folder's config.json is not valid JSON", where=f"{path}: {error}") from error
    if isinstance(config, dict) and isinstance(config.get("architecture"), str):
        return config
    known = config.get("architectures") if isinstance(config, dict) else None
    raise BadFile(
        f"the folder holds a transformers model ({known[0]}), not a timm model"
        if isinstance(known, list) and known
        else "the folder's config.json does not name a timm architecture",
        where=str(path),
        cure="give a folder written by timm.models.save_for_hf(model, FOLDER)",
    )


def _timm() -> Any:
    try:
        from edgevit.models.torchvision_fix import fix_torchvision_import

        fix_torchvision_import()
        import timm
    except ImportError as error:
        raise MissingDependency("timm", "building models", extra="torch") from error
    return timm


def _from_timm(name: str) -> ModelSpec:
    timm = _timm()
    from timm.models import get_pretrained_cfg, is_model, split_model_name_tag

    if name.startswith("hf-hub:"):
        return _from_hub(name)
    architecture, tag = split_model_name_tag(name)
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False) if is_model(architecture) else None
    except RuntimeError:  # timm's word for a tag that the architecture does not have
        cfg = None
    if cfg is None or (tag and cfg.tag != tag):
        known = [*zoo(), *timm.list_models(), *timm.list_models(pretrained=True)]
        raise UnknownName("model", name, known, listing="edgevit models lists what there is")
    source = f"{architecture}.{cfg.tag}" if cfg.tag else architecture
    return spec_from_cfg(name, source, cfg.to_dict(), origin="timm")


def _from_hub(name: str) -> ModelSpec:
    from timm.models._hub import load_model_config_from_hf

    repository = name.removeprefix("hf-hub:")
    try:
        config, architecture = load_model_config_from_hf(repository)[:2]
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{repository} is not a timm model: its config.json names no timm architecture",
            where=f"https://huggingface.co/{repository}",
            cure="name a repository written by timm, for example hf-hub:timm/shvit_s1.in1k",
        ) from error
    except Exception as error:  # the hub's library has no common base for what can go wrong on the way
        raise EnvironmentIncomplete(
            f"the configuration of {name} could not be read",
            where=f"https://huggingface.co/{repository}: {type(error).__name__}",
            cure=f"check the name; with a network: hf download {repository}; then run this again",
        ) from error
    return spec_from_cfg(name, architecture, config, origin="hf-hub")


def _from_config(name: str, config: dict[str, Any]) -> ModelSpec:
    cfg = {**config, **config.get("pretrained_cfg", {})}
    for key in ("num_classes", "label_names"):
        if key in config:
            cfg[key] = config[key]
    channels = config.get("model_args", {}).get("in_chans")
    if channels is not None:
        cfg["input_size"] = [channels, *cfg.get("input_size", _DEFAULT_INPUT)[1:]]
    return spec_from_cfg(name, config["architecture"], cfg, origin="local")


_DEFAULT_INPUT = (3, 224, 224)


def spec_from_cfg(name: str, source: str, cfg: dict[str, Any], **facts: Any) -> ModelSpec:
    """A spec from timm's pretrained configuration.

    Args:
        name: how edgevit calls the model.
        source: timm's architecture, with the weight tag where there is one.
        cfg: as `timm.models.PretrainedCfg.to_dict` gives it.
        facts: further fields of the spec; ``origin`` at least.

    Raises:
        BadFile: the configuration has no valid input size, mean or number of classes.
        UsageError: the model takes other pictures than RGB.
    """
    classes = cfg.get("num_classes", IMAGENET_CLASSES)
    size = cfg.get("input_size") or _DEFAULT_INPUT
    _check_cfg(name, classes, size)
    rule = Preprocessing(
        size=(size[1], size[2]),
        crop_pct=cfg.get("crop_pct") or 0.875,
        crop_mode=cfg.get("crop_mode") or "center",
        interpolation=cfg.get("interpolation") or "bicubic",
        mean=_per_channel(name, cfg.get("mean") or Preprocessing.mean),
        std=_per_channel(name, cfg.get("std") or Preprocessing.std),
    )
    given = {
        "family": source.split("_")[0].split(".")[0],
        "parameters": 0,
        "macs": 0,
        "top1": None,
        "top1_source": "",
        "paper": "",
        "weights": "" if facts.get("origin") == "local" else weights_location(cfg),
        **facts,
    }
    return ModelSpec(
        name=name,
        source=source,
        num_classes=classes,
        labels=_head_kind(source, cfg, classes, facts.get("origin")),
        licence=cfg.get("license") or "not stated",
        preprocessing=rule,
        **given,
    )


def _check_cfg(name: str, classes: Any, size: Any) -> None:
    sized = isinstance(size, (list, tuple)) and len(size) == 3 and all(type(side) is int for side in size)
    if not sized or not 0 < min(size) <= max(size) <= _SIDE_LIMIT or type(classes) is not int or classes < 0:
        raise BadFile(
            "the model's configuration is not valid", where=f"{name}: input_size {size}, num_classes {classes}"
        )
    if size[0] != 3:
        raise UsageError(
            f"{name} takes pictures of {size[0]} channel{'' if size[0] == 1 else 's'}; "
            "this version exports models of RGB pictures only",
            cure="train the model with in_chans=3, the channel repeated for grey pictures",
        )


def _per_channel(name: str, values: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise BadFile("the model's configuration has no mean and std of three channels", where=name) from error
    return red, green, blue


def _head_kind(source: str, cfg: dict[str, Any], classes: int, origin: str | None) -> str:
    architecture, _, tag = source.partition(".")
    if origin not in ("hf-hub", "local"):
        return head_kind(architecture, tag, classes)
    tag = str(cfg.get("tag") or tag)
    kind = foreign_head_kind(str(cfg.get("hf_hub_id") or ""), tag, classes)
    if head_kind(architecture, tag, classes) == EMBEDDING and _published_classes(architecture, tag) == classes:
        return EMBEDDING
    return kind


def _published_classes(architecture: str, tag: str) -> int | None:
    """The number of outputs that timm's registry has for these weights; None where they are unknown."""
    _timm()
    from timm.models import get_pretrained_cfg

    try:
        cfg = get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture, allow_unregistered=False)
    except RuntimeError:
        return None
    return None if cfg is None else int(cfg.num_classes)
