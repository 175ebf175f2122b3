"""The options that decide a recipe, checked before any work starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgevit.errors import UsageError
from edgevit.quant.calibration import MOST_UNREADABLE, check_wanted

_BITS = re.compile(r"w(?P<weights>[2-8])(?:a(?P<activations>[2-8]))?(?P<dynamic>-dynamic)?")
_BUDGET = re.compile(r"(?P<kind>size|latency)=(?P<factor>\d+(?:\.\d+)?)")
DEFAULT = "qhyvit"


@dataclass(frozen=True)
class Bits:
    """Bit widths of weights and activations.

    Attributes:
        weights: bits of weights.
        activations: bits of activations; None where they stay in floating point, or the runtime quantizes them.
        dynamic: whether the runtime quantizes the inputs of linear layers while it runs.
    """

    weights: int = 8
    activations: int | None = 8
    dynamic: bool = False


def parse_bits(text: str) -> Bits:
    """Parse ``w8a8``, ``w6a6``, ``w8`` (weights only) or ``w8a8-dynamic``.

    Raises:
        UsageError: it is none of these.
    """
    found = _BITS.fullmatch(text.lower())
    if found is None or (found["dynamic"] and found["activations"] != "8"):
        raise UsageError(
            f"--bits {text} is not understood",
            cure="give w8a8, another pair of 2 to 8 bits such as w6a6, w8 or w4 for weights only, or w8a8-dynamic",
        )
    dynamic = bool(found["dynamic"])
    static = found["activations"] and not dynamic
    return Bits(int(found["weights"]), int(found["activations"]) if static else None, dynamic)


@dataclass(frozen=True)
class Budget:
    """The limit of mixed precision: a multiple of the size or latency with every layer quantized."""

    kind: Literal["size", "latency"]
    factor: float


def parse_budget(text: str) -> Budget:
    """Parse ``size=1.2`` or ``latency=1.1``.

    Raises:
        UsageError: it is neither.
    """
    found = _BUDGET.fullmatch(text)
    if found is None or float(found["factor"]) < 1:
        raise UsageError(
            f"--auto-mixed {text} is not understood",
            cure="give size=1.2 or latency=1.1: how many times the fully quantized model's it may be, at least 1",
        )
    return Budget("size" if found["kind"] == "size" else "latency", float(found["factor"]))


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize a model.

    Attributes:
        calib: a folder of pictures, or ``digits:train``; None where only weights are quantized.
        quantizer: its name.
        bits: of weights and activations.
        images: how many pictures to take.
        seed: of the choice of pictures.
        keep: module paths or layer names that stay in floating point, with wildcards.
        exportable: leave out what no runtime can execute.
        budget: keep the most sensitive layers in floating point, as far as it allows.
        most_unreadable: share of pictures that may be skipped because they cannot be read.
        floor: the least agreement with the float model, or accuracy where ``evaluate`` has labels.
        evaluate: labelled pictures to measure accuracy on: ``digits:test`` or a folder of classes.
        limit: of pictures to evaluate.
    """

    calib: str | None
    quantizer: str = DEFAULT
    bits: Bits = Bits()
    images: int = 32
    seed: int = 0
    keep: tuple[str, ...] = ()
    exportable: bool = False
    budget: Budget | None = None
    most_unreadable: float = MOST_UNREADABLE
    floor: float | None = None
    evaluate: str | None = None
    limit: int | None = None

    def check(self) -> None:
        """Refuse options that contradict each other or cannot be carried out.

        Raises:
            UsageError: says what.
        """
        check_wanted(self.images)
        if self.bits.activations is not None and self.calib is None:
            raise UsageError(
                "activations cannot be quantized without pictures",
                cure="add --calib DIR, or --calib digits:train for a bundled model; --bits w8 needs none",
            )
        if self.calib is not None and not self.calib.startswith("digits:") and not Path(self.calib).is_dir():
            raise UsageError(
                f"there is no folder {self.calib} to calibrate on",
                cure="give a folder of pictures, or digits:train for a bundled model",
            )
        if self.floor is not None and not 0 < self.floor <= 1:
            raise UsageError(
                f"--floor {self.floor:g} is not a share", cure="give a number between 0 and 1, such as 0.98"
            )
