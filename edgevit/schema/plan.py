"""A plan: one model split by classes, the assignment of sub-models to members, and the fleet that it is for."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from edgevit.core.digest import sha256_file
from edgevit.errors import BadFile, CheckFailed
from edgevit.schema.manifest import MAX_BYTES, PreprocessInfo
from edgevit.schema.strict import Strict, no_repeats

SCHEMA_VERSION: Final = 1
PLAN = "plan.json"
FLEET = "fleet.toml"
FUSION: Final = "fusion.safetensors"
PlanName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
"""Of a member or a fleet: it becomes part of a key expression, a certificate and a file name."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
T = TypeVar("T", bound=BaseModel)


class Network(Strict):
    """The link between the coordinator and each member, for predictions: nothing is measured."""

    mbit_s: float = Field(100.0, gt=0)
    one_way_ms: float = Field(1.0, ge=0)
    image_bytes: int = Field(20_000, gt=0)


class Member(Strict):
    """One device of a fleet: its limits, each for one image or for all sub-models on it, and its speed.

    ``device`` names a file of ``targets/devices``. ``profile`` is a document of ``edgevit profile --json`` of the whole
    model on this device, relative to the fleet's file; ``gmacs_per_s`` may stand in its place. ``energy_mj`` is a
    limit in millijoules an image, which needs ``watts``, what the device draws above rest while it computes.
    """

    name: PlanName
    device: str = ""
    memory_mb: float | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0)
    energy_mj: float | None = Field(None, gt=0)
    watts: float | None = Field(None, gt=0)
    gmacs_per_s: float | None = Field(None, gt=0)
    profile: str = ""


class Fleet(Strict):
    """``fleet.toml``: the members, how they reach the coordinator, and the network between them.

    ``listen`` is the coordinator's address, which the members dial. ``deadline_ms`` is what one image may take.
    """

    name: PlanName = "edgevit"
    listen: str = Field("127.0.0.1:7447", pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$")
    deadline_ms: float = Field(500.0, gt=0, le=600_000)
    network: Network = Field(default_factory=lambda: Network.model_validate({}))
    member: tuple[Member, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _once(self) -> Fleet:
        names = [one.name for one in self.member]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"two members are named {twice!r}")
        return self

    def to_toml(self) -> str:
        """The document as TOML, which `read_fleet` reads."""
        values = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        values.setdefault("listen", self.listen)
        tables = {"network": [values.pop("network", {})], "member": values.pop("member")}
        lines = [_line(key, value) for key, value in values.items()]
        for name, rows in tables.items():
            for row in rows:
                lines += ["", f"[[{name}]]" if name == "member" else f"[{name}]"]
                lines += [_line(key, value) for key, value in row.items()]
        return "\n".join(lines) + "\n"

    def of(self, name: str) -> Member | None:
        """The member with a name."""
        return next((one for one in self.member if one.name == name), None)


class ModelFacts(Strict):
    """The original model; ``bytes`` are its float32 weights."""

    name: str
    parameters: int
    macs: int
    bytes: int
    weights_sha256: str = ""


class Predicted(Strict):
    """Predicted cost of an image on one member; parts that cannot be predicted are absent."""

    compute_ms: float | None = None
    network_ms: float
    memory_mb: float
    energy_mj: float | None = None


class SubModel(Strict):
    """One sub-model: its classes, in the order of its outputs 1, 2, ..., and the bundle that gives its features.

    ``bundle_sha256`` is the digest of the bundle's manifest, which lists the digest of every other file.
    """

    name: PlanName
    member: PlanName
    classes: tuple[int, ...]
    keep: str
    bundle: str
    bundle_sha256: Digest
    features: int = Field(gt=0)
    parameters: int
    macs: int
    bytes: int
    accuracy: Share

    @model_validator(mode="after")
    def _inside(self) -> SubModel:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_.-]+)*", self.bundle) or ".." in self.bundle:
            raise ValueError(f"the bundle's path {self.bundle!r} leaves the plan")
        return self


class FusionInfo(Strict):
    """The head that fuses the features: one hidden layer, trained with members dropped at random."""

    file: Literal["fusion.safetensors"] = "fusion.safetensors"
    sha256: Digest
    hidden: int
    dropped: Share


class Missing(Strict):
    """Accuracy while some members are missing."""

    members: tuple[PlanName, ...]
    accuracy: Share
    scores_accuracy: Share


class Accuracies(Strict):
    """Measured on held-out pictures: the original, all sub-models fused, and with one and two members missing.

    ``scores_fused`` needs no trained head: each class by the best of its sub-models' own scores. ``measured_with`` is
    what ran the sub-models.
    """

    pictures: int
    dataset: str
    measured_with: str
    original: Share
    fused: Share
    scores_fused: Share
    one_missing: tuple[Missing, ...]
    two_missing: tuple[Missing, ...] = ()


class Plan(Strict):
    """``plan.json``; ``minutes`` are of the run that wrote it, which may have gone on where another was killed."""

    schema_version: Literal[1] = SCHEMA_VERSION
    edgevit: str
    created: str
    model: ModelFacts
    labels: tuple[str, ...]
    preprocess: PreprocessInfo
    assignment: Literal["greedy", "exact", "given"]
    partition: str
    seed: int
    minutes: float
    sub_models: tuple[SubModel, ...] = Field(min_length=1)
    fusion: FusionInfo
    accuracy: Accuracies
    predicted: dict[str, Predicted]

    def members(self) -> tuple[str, ...]:
        """Names of the members, in the order of their first sub-model."""
        return tuple(dict.fromkeys(one.member for one in self.sub_models))

    def of(self, member: str) -> tuple[SubModel, ...]:
        """The sub-models of one member, in the plan's order."""
        return tuple(one for one in self.sub_models if one.member == member)

    def to_json(self) -> str:
        """The text of ``plan.json``: indented, fields in a fixed order, absent ones left out."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"


def _line(key: str, value: Any) -> str:
    """One TOML assignment; JSON's strings and numbers are TOML's."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _first(error: ValidationError) -> str:
    one = error.errors()[0]
    key = ".".join(str(part) for part in one["loc"])
    return f"{key}: {one['msg']}" if key else str(one["msg"])


def read_fleet(path: Path) -> Fleet:
    """Read a fleet's file.

    Raises:
        BadFile: missing, not TOML, an unknown key or a value out of range.
    """
    return _validated(Fleet, _toml(path), path, "docs/fleet.md shows one")


def _toml(path: Path) -> Any:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFile(f"there is no fleet file {path}", cure="docs/fleet.md shows one") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadFile(f"the fleet file cannot be read: {error}", where=str(path)) from error


def _validated(kind: type[T], values: Any, path: Path, cure: str) -> T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadFile(f"{path.name} is not valid: {_first(error)}", where=str(path), cure=cure) from error


def read_plan(folder: Path, *, head: bool = True) -> Plan:
    """Read a plan and check its fusion head against its digest; bundles are checked by who loads them.

    Args:
        folder: the plan's.
        head: whether the fusion head must be there; a member does without.

    Raises:
        BadFile: no plan, or one that is not valid.
        CheckFailed: the fusion head was changed.
    """
    path = folder / PLAN
    if not path.is_file() or path.is_symlink():
        raise BadFile(f"there is no plan in {folder}", cure="edgevit split MODEL --data DIR -o DIR writes one")
    if path.stat().st_size > MAX_BYTES:
        raise BadFile("the plan is larger than 4 MiB", where=str(path))
    try:
        values = json.loads(path.read_bytes(), object_pairs_hook=no_repeats)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"the plan is not valid JSON: {error}", where=str(path)) from error
    plan = _validated(Plan, values, path, "split the model again with this version of edgevit")
    file = folder / FUSION
    if head and (not file.is_file() or sha256_file(file) != plan.fusion.sha256):
        raise CheckFailed("the fusion head is not the plan's", where=str(file), cure="copy the whole plan again")
    return plan
