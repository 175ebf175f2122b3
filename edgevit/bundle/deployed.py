"""A bundle ready to predict: the code an app would write, in Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Runner, find_backend
from edgevit.bundle.read import Bundle, read_bundle
from edgevit.data.images import MAX_MEGAPIXELS, as_input, read_picture, to_model_size
from edgevit.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@dataclass(frozen=True)
class Prediction:
    """One of the most likely classes.

    Attributes:
        index: of the class.
        label: its name.
        score: probability, or logit where the bundle gives logits.
    """

    index: int
    label: str
    score: float


class Deployed:
    """A bundle loaded into its runtime on this machine.

    Attributes:
        bundle: where it lies and what its manifest says.
        rule: how a picture becomes its input.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.rule = bundle.manifest.preprocess.rule()

    @cached_property
    def _run(self) -> Runner:
        return find_backend(self.bundle.manifest.target.backend).load(self.bundle.entry)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.bundle.manifest.labels

    @property
    def runtime(self) -> str:
        """What runs the bundle on this machine, with its version."""
        return find_backend(self.bundle.manifest.target.backend).runs_with()

    def prepare(self, picture: Picture) -> NDArray[Any]:
        """The exact input for a picture: batch of one, layout and dtype as the manifest says."""
        pixels = to_model_size(picture, self.rule)[None]
        return as_input(pixels, self.rule, self.bundle.manifest.input)

    def scores(self, picture: Picture) -> NDArray[np.float32]:
        """The model's output for a picture: float32 [classes]."""
        return self._run(self.prepare(picture))[0]

    def predict(
        self, picture: Picture | Path | str, top: int = 5, max_megapixels: float = MAX_MEGAPIXELS
    ) -> list[Prediction]:
        """The most likely classes of a picture, best first.

        Args:
            picture: a path or a Pillow image.
            top: how many.
            max_megapixels: larger files are refused.

        Raises:
            UsageError: the bundle gives features.
            BadFile: the picture cannot be read.
            EnvironmentIncomplete: the runtime is not installed or does not run on this machine.
        """
        if self.bundle.manifest.output.kind == "features":
            raise UsageError(
                "the bundle gives features, not classes",
                where=str(self.bundle.path),
                cure="edgevit fleet run PLAN fuses those of a plan; export with --output probabilities for classes",
            )
        if isinstance(picture, (str, Path)):
            picture = read_picture(Path(picture), max_megapixels)
        scores = self.scores(picture)
        best = np.argsort(-scores, kind="stable")[:top]
        return [Prediction(int(i), self.labels[int(i)], float(scores[i])) for i in best]


def load(path: Path | str, *, check: bool = True) -> Deployed:
    """Open a bundle for prediction.

    Args:
        path: the bundle's folder.
        check: compare every file with the manifest's hashes first.

    Raises:
        BadFile: not a bundle, or a hostile one.
        CheckFailed: a file was changed.
    """
    return Deployed(read_bundle(Path(path), check=check))
