"""Requires an accuracy of an artifact: runs it on a whole data set in its own runtime."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.backends.process.jobs import ProcessLimits
from edgevit.data.folders import Skip
from edgevit.errors import BadFile
from edgevit.schema.manifest import Manifest
from edgevit.schema.model import Preprocessing
from edgevit.verify.evaluate import pictures_of
from edgevit.verify.judge import run_artifact
from edgevit.verify.probes import make_inputs


@dataclass(frozen=True)
class Floor:
    """An accuracy requirement: minimum, data set, preprocessing.

    Attributes:
        least: the smallest accepted accuracy, 0 to 1.
        dataset: labelled pictures.
        rule: the model's preprocessing.
    """

    least: float
    dataset: str
    rule: Preprocessing


def measure(
    floor: Floor,
    manifest: Manifest,
    file: Path,
    scratch: Path,
    log: Path,
    limits: ProcessLimits,
    stop: threading.Event,
    skip: Skip,
) -> float:
    """Accuracy of a model file on the floor's data set.

    Args:
        floor: the requirement.
        manifest: of the file.
        file: to run.
        scratch: see `edgevit.verify.judge.run_artifact`, as for the next three.
        log: of the target.
        limits: time and memory.
        stop: when set, the run is ended.
        skip: called for pictures that cannot be read, and are left out.

    Raises:
        BadFile: the folder cannot be read, or none of its pictures.
    """
    found = list(pictures_of(floor.dataset, manifest.labels, skip))
    if not found:
        raise BadFile("no picture of the data set can be read", where=floor.dataset)
    truth = [label for _, label in found]
    inputs = make_inputs([picture for picture, _ in found], floor.rule, manifest.input)
    outputs = run_artifact(manifest.target.backend, file, inputs, scratch, log, limits, stop)
    return float((outputs.argmax(axis=1) == np.asarray(truth)).mean())


def shortfall(floor: Floor, accuracy: float) -> str:
    """The reason why an artifact is below the required accuracy, or an empty string."""
    if accuracy >= floor.least:
        return ""
    return f"its accuracy on {floor.dataset} is {accuracy:.2%}, below the floor of {floor.least:.2%}"
