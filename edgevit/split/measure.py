"""Measures a plan's accuracy table from the bundles themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgevit.backends.base import find_backend
from edgevit.bundle.read import Bundle
from edgevit.core.fusion import Floats, FusionHead, as_sent
from edgevit.data.images import as_input
from edgevit.models.load import LoadedModel
from edgevit.schema.plan import Accuracies, Missing
from edgevit.split.jobs import Progress
from edgevit.split.train.pool import Labelled
from edgevit.verify.judge import why_not_here


def bundle_features(
    made: Sequence[Path], bundles: Sequence[Bundle], held: Labelled, loaded: LoadedModel, tell: Progress
) -> tuple[list[Floats], str]:
    """Features of the held-out pictures by sub-model, and what computed them.

    A bundle runs in its own runtime where that runs on this machine; otherwise PyTorch's features stand in.
    """
    found, ran = [], []
    for index, (path, bundle) in enumerate(zip(made, bundles, strict=True)):
        if why_not_here(bundle.manifest):
            found.append(np.load(path / "held.npy", allow_pickle=False))
            ran.append("PyTorch")
            continue
        tell("measuring the bundles", index, len(bundles))
        backend = find_backend(bundle.manifest.target.backend)
        run = backend.load(bundle.entry)
        rows = [
            run(as_input(held.images[i : i + 1], loaded.preprocessing, bundle.manifest.input)) for i in range(len(held))
        ]
        found.append(np.concatenate(rows))
        ran.append(backend.runs_with())
    return found, ", ".join(dict.fromkeys(ran))


def _answers(loaded: LoadedModel, held: Labelled) -> Floats:
    with torch.no_grad():
        return torch.cat([loaded.module(one) for one in held.batches(loaded.preprocessing)]).numpy()


def accuracies(
    head: FusionHead,
    features: Sequence[Floats],
    members: Sequence[str],
    held: Labelled,
    loaded: LoadedModel,
    *,
    dataset: str,
    measured_with: str,
) -> Accuracies:
    """Accuracy of the original, of all sub-models fused, and without each member and each pair of members.

    Features are rounded as a fleet sends them.

    Args:
        head: the fusion head.
        features: by sub-model [N, F_i] of the held-out pictures.
        members: for each sub-model, the member that runs it.
        held: the held-out pictures.
        loaded: the original.
        dataset: name of the data set that they come from.
        measured_with: what computed the features.
    """

    sent = [as_sent(one).astype(np.float32) for one in features]

    def share(answers: NDArray[np.float32]) -> float:
        return float((answers.argmax(1) == held.labels).mean())

    def present(gone: tuple[str, ...]) -> list[Floats | None]:
        return [None if name in gone else one for name, one in zip(members, sent, strict=True)]

    def both(gone: tuple[str, ...]) -> tuple[float, float]:
        there = present(gone)
        return share(head.fuse(there)), share(head.scores(there))

    names = list(dict.fromkeys(members))
    fused, scores = both(())
    return Accuracies(
        pictures=len(held),
        dataset=dataset,
        measured_with=measured_with,
        original=share(_answers(loaded, held)),
        fused=fused,
        scores_fused=scores,
        one_missing=_without(both, [(name,) for name in names] if len(names) > 1 else []),
        two_missing=_without(both, list(combinations(names, 2)) if len(names) > 2 else []),
    )


def _without(
    both: Callable[[tuple[str, ...]], tuple[float, float]], gone: Sequence[tuple[str, ...]]
) -> tuple[Missing, ...]:
    found = []
    for names in gone:
        fused, scores = both(names)
        found.append(Missing(members=names, accuracy=fused, scores_accuracy=scores))
    return tuple(found)
