"""A bundle loaded for prediction: in Python, what an app does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import Runner, find_backend
from edgevit.bundle.read import Bundle, read_bundle
from edgevit.data.images import as_input, to_model_size
from edgevit.data.pixels import MAX_MEGAPIXELS, as_picture
from edgevit.errors import UsageError

Given = Any
"""One picture: a path, bytes, an open file, a Pillow image or an array; see `edgevit.data.pixels.as_picture`."""


@dataclass(frozen=True)
class Prediction:
    """One class of an answer.

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

    Any number of threads may call one. ONNX Runtime and the Core ML evaluator then work at once; LiteRT, ExecuTorch and
    Core ML itself take one call after the other. What a call returns is the caller's own: no later call changes it.

    Attributes:
        bundle: its folder and manifest.
        rule: the preprocessing of pictures.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.rule = bundle.manifest.preprocess.rule()
        self._runner: Runner | None = None
        self._loading = threading.Lock()

    def _run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The output for one input; the first call loads the model, once."""
        if self._runner is None:
            with self._loading:
                if self._runner is None:
                    self._runner = find_backend(self.bundle.manifest.target.backend).load(self.bundle.entry)
        return self._runner(inputs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.bundle.manifest.labels

    @property
    def runtime(self) -> str:
        """The runtime that executes the bundle on this machine, with its version."""
        return find_backend(self.bundle.manifest.target.backend).runs_with()

    def prepare(self, picture: Given, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[Any]:
        """The exact input for a picture, given as for `predict`: a batch of one, as the manifest says."""
        pixels = to_model_size(as_picture(picture, max_megapixels), self.rule)[None]
        return as_input(pixels, self.rule, self.bundle.manifest.input)

    def scores(self, picture: Given, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.float32]:
        """The model's output for a picture, given as for `predict`: float32 [classes]."""
        return self._run(self.prepare(picture, max_megapixels))[0]

    @overload
    def predict(
        self, picture: list[Given] | tuple[Given, ...], top: int = ..., max_megapixels: float = ...
    ) -> list[list[Prediction]]:
        """Of several pictures: one answer each."""

    @overload
    def predict(self, picture: Given, top: int = ..., max_megapixels: float = ...) -> list[Prediction]:
        """The ``top`` most likely classes of one picture, most likely first."""

    def predict(
        self, picture: Given | Sequence[Given], top: int = 5, max_megapixels: float = MAX_MEGAPIXELS
    ) -> list[Prediction] | list[list[Prediction]]:
        """The most likely classes of a picture, best first.

        Args:
            picture: a path; bytes or an open file; a Pillow image, whose EXIF orientation is applied; or a uint8 array
                of RGB [H, W, 3], RGBA [H, W, 4] (alpha is dropped) or grey [H, W]. OpenCV's arrays are BGR: give
                ``array[..., ::-1]``. A list or tuple of these gives a list of answers.
            top: how many.
            max_megapixels: larger pictures are refused.

        Raises:
            UsageError: the bundle gives features, or the array is of another shape or type.
            BadFile: the picture cannot be read.
            EnvironmentIncomplete: the runtime is not installed or does not run on this machine.
        """
        if self.bundle.manifest.output.kind == "features":
            raise UsageError(
                "the bundle gives features, not classes",
                where=str(self.bundle.path),
                cure="edgevit fleet run PLAN fuses those of a plan; export with --output probabilities for classes",
            )
        if isinstance(picture, (list, tuple)):
            return [self._best(one, top, max_megapixels) for one in picture]
        return self._best(picture, top, max_megapixels)

    def _best(self, picture: Given, top: int, max_megapixels: float) -> list[Prediction]:
        scores = self.scores(picture, max_megapixels)
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
