"""Split the bundled digits models and a 20-class set over 2, 5 and 10 members: accuracy, size, MACs, latency.

    python tools/bench/split.py SHAPES [--only NAME] [--out docs/measured/split.json] [--device cuda] [--plans DIR]

SHAPES is the folder of `tools/shapes.py SHAPES --train 12`. Every case is one `edgevit split`; sub-models that are in
the store already are not trained again. Latency is measured on this computer with one thread, the whole model's
bundle and the largest sub-model's in turns. Plans that are kept in `--plans` are not made again, so that a machine
with a GPU may make them (`--no-latency`) and another measure what they take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import edgevit
from edgevit.schema.plan import PLAN, Missing, Plan, read_plan
from edgevit.split.options import SplitOptions, equal_fleet
from edgevit.split.run import split_model
from edgevit.split.train.fine_tune import Schedule

DIGITS, TEST = "digits:train:6", "digits:test"


@dataclass(frozen=True)
class Case:
    """One split."""

    model: str
    parts: int
    keep: Fraction
    epochs: int
    copies: int = 1


def cases() -> dict[str, Case]:
    """All of them, by name."""
    shares = {2: Fraction(1, 2), 5: Fraction(1, 3), 10: Fraction(1, 6)}
    found = {}
    for model, epochs in (("deit_digits", 12), ("tinyvit_digits", 12), ("shapes", 20)):
        for parts, keep in shares.items():
            found[f"{model}-{parts}"] = Case(model, parts, keep, epochs)
    found["deit_digits-5-copies"] = Case("deit_digits", 5, shares[5], 12, copies=2)
    return found


def options(case: Case, shapes: Path) -> SplitOptions:
    """As the command line would make them."""
    drawn = case.model == "shapes"
    return SplitOptions(
        str(shapes / "model") if drawn else case.model,
        str(shapes / "train") if drawn else DIGITS,
        equal_fleet(case.parts),
        evaluate=str(shapes / "test") if drawn else TEST,
        parts=case.parts,
        copies=case.copies,
        levels=(case.keep,),
        last=Schedule(case.epochs),
    )


def latency_ratio(plan: Plan, folder: Path, model: str, scratch: Path) -> float | None:
    """How many times as long the whole model takes as the largest sub-model."""
    whole = edgevit.export(model, ["onnx"], out=scratch)[0]
    largest = max(plan.sub_models, key=lambda one: one.macs)
    found = edgevit.compare(folder / largest.bundle, whole.path or "", threads=1)
    return round(found.ratio, 2)


def shares(missing: tuple[Missing, ...]) -> dict[str, float] | None:
    """Mean and worst."""
    found = [one.accuracy for one in missing]
    return {"mean": round(statistics.mean(found), 4), "worst": round(min(found), 4)} if found else None


def make(given: SplitOptions, folder: Path) -> Plan:
    """Split, unless it was done."""
    if (folder / PLAN).exists():
        return read_plan(folder)
    told = set[str]()

    def tell(what: str, done: int, total: int) -> None:  # noqa: ARG001
        if what not in told:
            told.add(what)
            print(f"  {what}", flush=True)

    return split_model(given, folder, progress=tell)


def run(case: Case, given: SplitOptions, folder: Path, latency: bool) -> dict[str, Any]:
    """Split, measure, tell."""
    plan = make(given, folder)
    largest = max(plan.sub_models, key=lambda one: one.parameters)
    with tempfile.TemporaryDirectory() as name:
        return {
            "parts": case.parts,
            "keep": str(case.keep),
            "copies": case.copies,
            "smaller": round(plan.model.parameters / largest.parameters, 1),
            "fewer_macs": round(plan.model.macs / max(one.macs for one in plan.sub_models), 1),
            "latency_ratio": latency_ratio(plan, folder, given.model, Path(name)) if latency else None,
            "original": round(plan.accuracy.original, 4),
            "fused": round(plan.accuracy.fused, 4),
            "scores": round(plan.accuracy.scores_fused, 4),
            "one_missing": shares(plan.accuracy.one_missing),
            "two_missing": shares(plan.accuracy.two_missing),
            "pictures": plan.accuracy.pictures,
            "minutes": plan.minutes,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", type=Path)
    parser.add_argument("--only", action="append", choices=list(cases()))
    parser.add_argument("--out", type=Path, default=Path("docs/measured/split.json"))
    parser.add_argument("--device", default="cpu", help="to train on")
    parser.add_argument("--jobs", type=int, help="sub-models trained at once")
    parser.add_argument("--plans", type=Path, help="keep the plans here")
    parser.add_argument("--no-latency", action="store_true", help="measure no latency")
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name, case in cases().items():
        if given.only and name not in given.only:
            continue
        print(name, flush=True)
        wanted = replace(options(case, given.shapes), device=given.device, jobs=given.jobs)
        with tempfile.TemporaryDirectory() as scratch:
            folder = (given.plans or Path(scratch)) / name
            found[name] = run(case, wanted, folder, not given.no_latency)
        print(f"  {found[name]}", flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
