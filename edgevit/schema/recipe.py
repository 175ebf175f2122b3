"""The recipe: how one model is quantized, as data.

A recipe holds numbers only: scales and zero points by the name of a value in the captured graph. The
weights stay with the model; a digest of the graph says whether a recipe and a model belong together.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from edgevit.errors import BadFile
from edgevit.schema.manifest import Agreement, CalibrationInfo
from edgevit.schema.strict import Strict, no_repeats

SCHEMA_VERSION: Final = 1
RECIPE = "recipe.json"
"""Its name in a bundle."""
MAX_BYTES = 64 << 20
"""Longest accepted text (64 MiB): recipes hold a scale for each output channel of every layer."""
Bits = Annotated[int, Field(ge=2, le=8)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class UniformCode(Strict):
    """``scale * (q - zero_point)`` with q a signed integer of ``bits`` bits, for a whole tensor."""

    kind: Literal["uniform"] = "uniform"
    bits: Bits = 8
    scale: Positive
    zero_point: int

    @property
    def low(self) -> int:
        """The smallest integer q: ``-2^(bits - 1)``."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest integer q: ``2^(bits - 1) - 1``."""
        return (1 << (self.bits - 1)) - 1


class TwinUniformCode(Strict):
    """Two uniform ranges, one below and one from ``split`` on, each with half of the codes (PTQ4ViT)."""

    kind: Literal["twin-uniform"] = "twin-uniform"
    bits: Bits = 8
    split: float = Field(allow_inf_nan=False)
    low_scale: Positive
    high_scale: Positive


class LogCode(Strict):
    """``scale * base ** -q`` for values in (0, scale]; what needs more than 2^bits - 1 is zero (FQ-ViT, RepQ-ViT)."""

    kind: Literal["log"] = "log"
    bits: Bits = 4
    base: Literal["2", "sqrt2"]
    scale: Positive


class FactorCode(Strict):
    """Uniform, with each channel's scale multiplied by a power of two (FQ-ViT's PTF); channels are the last axis."""

    kind: Literal["power-of-two-factor"] = "power-of-two-factor"
    bits: Bits = 8
    scale: Positive
    zero_point: int
    factors: tuple[Annotated[int, Field(ge=0, le=8)], ...]


Code = Annotated[UniformCode | TwinUniformCode | LogCode | FactorCode, Field(discriminator="kind")]


class WeightCode(Strict):
    """Symmetric integers of a layer's weight, with one scale for each output channel."""

    bits: Bits = 8
    scale: tuple[Positive, ...]

    @property
    def low(self) -> int:
        """The smallest integer q; with 8 bits -127, as integer kernels require."""
        return -(1 << (self.bits - 1)) + (self.bits == 8)

    @property
    def high(self) -> int:
        """The largest integer q: ``2^(bits - 1) - 1``."""
        return (1 << (self.bits - 1)) - 1


class TableCode(Strict):
    """Symmetric 8-bit integers of a large constant, with scales along an axis that is counted from the last one."""

    axis: int = Field(lt=0)
    scale: tuple[Positive, ...]


class ChannelFold(Strict):
    """An exact change of one value's channels: x becomes (x - shift) / factor, and what reads it undoes that."""

    value: str
    factor: tuple[Positive, ...]
    shift: tuple[float, ...] = ()


class RecipeModel(Strict):
    """The model that a recipe is for; ``graph`` is the digest of its captured graph with all constants."""

    name: str
    size: tuple[int, int]
    classes: int
    graph: str


class Recipe(Strict):
    """The document that describes how one model is quantized.

    Attributes:
        quantizer: name of the quantizer that solved it.
        weight_bits: of quantized weights.
        activation_bits: of quantized activations; None where they stay in floating point.
        dynamic: whether the runtime computes the scales of activations for each input.
        calibration: None where only weights are quantized.
        folds: made in the graph before anything is quantized, in order.
        weights: by the name of a layer's node.
        activations: by the name of a value's node.
        tables: of large constants that are added, by their node.
        operands: codes of one operator's operands, inside of it; no runtime can execute these.
        kept: layers that stay in floating point, and why.
        modules: module paths of the layers, for the reader.
        agreement: measured agreement of the quantized model with the float one.
    """

    kind: Literal["edgevit-recipe"] = "edgevit-recipe"
    schema_version: Literal[1] = SCHEMA_VERSION
    edgevit: str
    torch: str
    model: RecipeModel
    quantizer: str
    weight_bits: Bits = 8
    activation_bits: Bits | None = None
    dynamic: bool = False
    calibration: CalibrationInfo | None = None
    folds: tuple[ChannelFold, ...] = ()
    weights: dict[str, WeightCode] = {}
    activations: dict[str, Code] = {}
    tables: dict[str, TableCode] = {}
    operands: dict[str, dict[str, Code]] = {}
    kept: dict[str, str] = {}
    modules: dict[str, str] = {}
    agreement: Agreement | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the file that `to_json` makes, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Stable JSON; floats are written so that they read back exactly."""
        values = self.model_dump(mode="json", exclude_none=True)
        rows = [f" {json.dumps(key)}: {_compact(value)}" for key, value in values.items()]
        return "{\n" + ",\n".join(rows) + "\n}\n"


def _compact(value: Any) -> str:
    """JSON with one line for each entry of a table."""
    if isinstance(value, dict) and any(isinstance(one, (dict, list)) for one in value.values()):
        plain = (f"  {json.dumps(key)}: {json.dumps(one, separators=(',', ':'))}" for key, one in value.items())
        return "{\n" + ",\n".join(plain) + "\n }"
    return json.dumps(value, ensure_ascii=False)


def parse_recipe(text: str | bytes, where: str) -> Recipe:
    """Parse a recipe from outside.

    Raises:
        BadFile: too large, not JSON, a repeated or unknown key, a wrong value or version.
    """
    cure = "make it again: edgevit quantize MODEL --calib DIR -o RECIPE"
    if len(text) > MAX_BYTES:
        raise BadFile("the recipe is larger than 64 MiB", where=where, cure=cure)
    try:
        return Recipe.model_validate(json.loads(text, object_pairs_hook=no_repeats))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadFile(f"the recipe is not valid: {key}: {first['msg']}", where=where, cure=cure) from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"the recipe is not valid JSON: {error}", where=where, cure=cure) from error


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        BadFile: it is missing or not a recipe.
    """
    if not path.is_file():
        raise BadFile(f"there is no recipe {path}", cure="make one: edgevit quantize MODEL --calib DIR -o RECIPE")
    return parse_recipe(path.read_bytes(), str(path))
