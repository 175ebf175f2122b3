"""What timm publishes under a name: number and meaning of the weights' outputs, and the location of the file.

timm's pretrained configuration says all of it. A head is a classifier over one of the ImageNet sets, which timm
has names for; a classifier over another set, without names; a projection to an embedding (CLIP's image towers);
or there is none (self-supervised weights, encoders of larger models).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

IMAGENET_CLASSES: Final = 1000
IMAGENET_SETS: Final = {
    IMAGENET_CLASSES: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}
"""timm's name of the set by its number of classes, as `timm.data.infer_imagenet_subset` has them."""

NO_CLASSIFIER: Final = "none"
EMBEDDING: Final = "embedding"
NUMBERS: Final = "numbers"

_IMAGENET_1K = re.compile(r"(?:^|_)in1k(?:_|$)")
_PROJECTING = re.compile(r"clip|^vit_pe_core_")


def head_kind(architecture: str, tag: str, classes: int) -> str:
    """The meaning of the outputs of weights in timm's registry: a set of labels, ``embedding`` or ``none``."""
    if classes == 0:
        return NO_CLASSIFIER
    if classes in IMAGENET_SETS:
        return IMAGENET_SETS[classes]
    return EMBEDDING if _PROJECTING.search(f"{architecture}.{tag}") else NUMBERS


def foreign_head_kind(repository: str, tag: str, classes: int) -> str:
    """The meaning of the outputs of weights of others, as far as their configuration shows it.

    A thousand classes are ImageNet's where the repository is timm's or the weight tag says so: others have a
    thousand classes too. The numbers of the larger sets are no coincidence.
    """
    if classes == 0:
        return NO_CLASSIFIER
    if classes == IMAGENET_CLASSES and not (repository.startswith("timm/") or _IMAGENET_1K.search(tag)):
        return NUMBERS
    return IMAGENET_SETS.get(classes, NUMBERS)


def weights_location(cfg: Mapping[str, Any]) -> str:
    """The location that timm loads weights from: ``hf-hub:OWNER/REPO``, a URL, or empty where none are published."""
    if cfg.get("hf_hub_id"):
        return f"hf-hub:{cfg['hf_hub_id']}"
    url = cfg.get("url") or ""
    return str(url[0] if isinstance(url, (tuple, list)) else url)
