"""What the fine-tuning of a sub-model teaches its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgevit.errors import UsageError
from edgevit.split.jobs import here, run_jobs
from edgevit.split.plan.preview import SplitSource, make_draft
from edgevit.split.run import sub_model_jobs
from edgevit.split.train.fine_tune import Schedule
from edgevit.split.train.pool import read_pool
from tests.split.test_split import options


def foreign_accuracy(auxiliary: float) -> float:
    """How well one affine map tells a sub-model's foreign classes apart, from its features of held-out pictures."""
    source = SplitSource(options(last=Schedule(2, auxiliary=auxiliary)), lambda *_: None)
    assert source.pool
    job = sub_model_jobs(source, make_draft(source, Path()))[0]
    with here() as executor:
        folder = run_jobs([job], executor)[0]
    pool, held = read_pool(Path(job.store) / job.pool)
    seen, held_seen = np.load(folder / "features.npy")[0], np.load(folder / "held.npy")

    def foreign(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = ~np.isin(labels, job.classes)
        return np.c_[features[chosen], np.ones(chosen.sum())], labels[chosen]

    inputs, labels = foreign(seen, pool.pictures.labels)
    weights = np.linalg.lstsq(inputs, np.eye(10)[labels], rcond=None)[0]
    inputs, labels = foreign(held_seen, held.labels)
    return float(((inputs @ weights).argmax(1) == labels).mean())


def test_features_know_the_classes_of_a_missing_member() -> None:
    assert foreign_accuracy(1.0) > foreign_accuracy(0.0) + 0.02


def test_a_negative_weight() -> None:
    with pytest.raises(UsageError, match="--auxiliary is a weight of 0 or more"):
        options(last=Schedule(1, auxiliary=-1.0)).check()
