"""Model names: the zoo, the bundled models, and any other timm image classifier."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgevit.core.spec import ModelSpec, Preprocessing
from edgevit.errors import MissingDependency, UnknownName

IMAGENET_CLASSES = 1000


@lru_cache(maxsize=1)
def zoo() -> dict[str, ModelSpec]:
    """Every model that edgevit knows by name, in family order; needs no torch."""
    rows = json.loads((files("edgevit.models") / "zoo.json").read_text(encoding="utf-8"))
    specs = (ModelSpec.from_dict(row) for row in rows)
    return {spec.name: spec for spec in specs}


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
    """The spec behind a name.

    Args:
        name: a name that `list_models` gives, any timm classifier with or without a weight tag,
            ``hf-hub:OWNER/REPO``, or a local timm directory (one with a ``config.json``).

    Raises:
        UnknownName: nothing of that name; the nearest names are in the message.
        MissingDependency: the name needs timm and timm is not installed.
    """
    if name in zoo():
        return zoo()[name]
    if (Path(name) / "config.json").is_file():
        return _from_config(name, json.loads((Path(name) / "config.json").read_text(encoding="utf-8")))
    return _from_timm(name)


def _timm() -> Any:
    try:
        from edgevit.models.mend import mend_torchvision

        mend_torchvision()
        import timm
    except ImportError as error:
        raise MissingDependency("timm", "building models", extra="torch") from error
    return timm


def _from_timm(name: str) -> ModelSpec:
    timm = _timm()
    from timm.models import get_pretrained_cfg, is_model, split_model_name_tag

    if name.startswith("hf-hub:"):
        from timm.models._hub import load_model_config_from_hf

        config, architecture = load_model_config_from_hf(name.removeprefix("hf-hub:"))[:2]
        return spec_from_cfg(name, architecture, config, origin="hf-hub")
    architecture, tag = split_model_name_tag(name)
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False) if is_model(architecture) else None
    except RuntimeError:  # timm's word for a tag that the architecture does not have
        cfg = None
    if cfg is None or (tag and cfg.tag != tag):
        known = [*zoo(), *timm.list_models(), *timm.list_models(pretrained=True)]
        raise UnknownName("model", name, known, listing="edgevit models lists what there is")
    return spec_from_cfg(name, name, cfg.to_dict(), origin="timm")


def _from_config(name: str, config: dict[str, Any]) -> ModelSpec:
    cfg = {**config, **config.get("pretrained_cfg", {})}
    return spec_from_cfg(name, config["architecture"], cfg, origin="local")


def spec_from_cfg(name: str, source: str, cfg: dict[str, Any], **facts: Any) -> ModelSpec:
    """A spec from timm's pretrained configuration; a head of another size becomes 1,000 classes."""
    published = facts.get("origin") in ("hf-hub", "local")
    classes = cfg.get("num_classes", IMAGENET_CLASSES) if published else IMAGENET_CLASSES
    given = {
        "family": source.split("_")[0].split(".")[0],
        "parameters": 0,
        "macs": 0,
        "top1": None,
        "top1_source": "",
        "paper": "",
        **facts,
    }
    return ModelSpec(
        name=name,
        source=source,
        num_classes=classes,
        labels="imagenet-1k" if classes == IMAGENET_CLASSES else "numbers",
        licence=cfg.get("license") or "not stated",
        preprocessing=Preprocessing(
            size=tuple(cfg["input_size"][1:]),
            crop_pct=cfg.get("crop_pct") or 0.875,
            crop_mode=cfg.get("crop_mode") or "center",
            interpolation=cfg.get("interpolation") or "bicubic",
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
        ),
        **given,
    )
