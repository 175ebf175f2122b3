"""The model that is split: how jobs load it again, and its digest for their keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edgevit.models.load import LoadedModel, load_model


@dataclass(frozen=True)
class Original:
    """The arguments that load the original model; as for `edgevit.models.load.load_model`.

    ``digest`` is of its weights and architecture as loaded.
    """

    name: str
    weights: str
    num_classes: int | None
    labels: tuple[str, ...] | None
    digest: str

    def load(self) -> LoadedModel:
        """Load the original model with its weights, head size and labels."""
        return load_model(
            self.name,
            weights=self.weights,
            num_classes=self.num_classes,
            labels=self.labels,
        )


def model_digest(loaded: LoadedModel) -> str:
    """Digest of a model's weights and buffers."""
    digest = hashlib.sha256(f"{loaded.spec.source} {loaded.preprocessing} {loaded.labels}".encode())
    for name, value in loaded.module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_original(
    name: str, weights: str, num_classes: int | None, labels: tuple[str, ...] | None
) -> tuple[Original, LoadedModel]:
    """Load a model and describe how to load it again."""
    loaded = load_model(name, weights=weights, num_classes=num_classes, labels=labels)
    return Original(name, weights, num_classes, labels, model_digest(loaded)), loaded
