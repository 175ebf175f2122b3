"""A model split for real: what a plan says is what its bundles do, twice the same, and again after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgevit
from edgevit.bundle.read import read_bundle
from edgevit.data.digits import digits_arrays
from edgevit.errors import BadFile, CheckFailed, EdgevitError, UsageError
from edgevit.fleet.frames import Frame
from edgevit.fleet.running import FleetOptions, RunningFleet
from edgevit.schema.plan import FUSION, Fleet, read_fleet, read_plan
from edgevit.split.options import SplitOptions, equal_fleet
from edgevit.split.run import draft_plan, split_model
from edgevit.split.train.fine_tune import Schedule
from tests.conftest import cli, small_split


def options(**changed: Any) -> SplitOptions:
    given = {
        "evaluate": "digits:test",
        "levels": (Fraction(1, 6),),
        "between": 0,
        "last": Schedule(1),
        "views": 1,
        "jobs": 1,
        **changed,
    }
    data, fleet = given.pop("data", "digits:train"), given.pop("fleet", equal_fleet(2))
    return SplitOptions("deit_digits", data, fleet, **given)


def test_the_table_is_what_the_fleet_answers(small_plan: Path, few_digits: Path) -> None:
    """All held-out pictures through the fleet in this process: the same accuracy, whole and without a member."""
    plan = read_plan(small_plan)
    pictures = sorted((few_digits / "test").rglob("*.png"))
    labels = [int(path.parent.name) for path in pictures]
    frames = [Frame(str(path), np.asarray(Image.open(path)).tobytes(), "raw") for path in pictures]
    with RunningFleet(small_plan, FleetOptions(role="local", encoding="raw")) as fleet:
        assert fleet.wait_for(3, 30)

        def accuracy() -> float:
            answers = [answer for _, answer in fleet.stream(frames)]
            return float(np.mean([a.shares.argmax() == label for a, label in zip(answers, labels, strict=True)]))

        assert accuracy() == pytest.approx(plan.accuracy.fused)
        gone = fleet._members.pop()
        gone.close()
        ends = time.monotonic() + 10
        while fleet.health[gone.member].state != "absent" and time.monotonic() < ends:
            time.sleep(0.02)
        missing = next(one for one in plan.accuracy.one_missing if one.members == (gone.member,))
        assert accuracy() == pytest.approx(missing.accuracy)
        assert fleet.tally.adds_up()


def test_a_plan_says_what_it_is(small_plan: Path) -> None:
    plan, fleet = read_plan(small_plan), read_fleet(small_plan / "fleet.toml")
    assert [one.name for one in fleet.member] == ["member-1", "member-2", "member-3"]
    assert sorted(c for one in plan.sub_models for c in one.classes) == list(range(10))
    assert len(plan.accuracy.one_missing) == len(plan.accuracy.two_missing) == 3
    assert plan.accuracy.original > 0.96
    for one in plan.sub_models:
        bundle = read_bundle(small_plan / one.bundle)
        assert bundle.manifest.output.kind == "features"
        assert bundle.manifest.verdict is not None and bundle.manifest.verdict.status == "passed"
        assert one.features == 32
        assert plan.model.parameters / one.parameters > 8
        assert edgevit.verify_bundle(bundle.path).status == "passed"
        with pytest.raises(UsageError, match="gives features"):
            edgevit.load(bundle.path).predict(small_plan / one.bundle / "golden/probe_0.png")


def weights(folder: Path) -> list[bytes]:
    return [
        *(path.read_bytes() for path in sorted(folder.rglob("*.onnx"))),
        (folder / FUSION).read_bytes(),
    ]


def test_the_same_seed_gives_the_same_plan_and_a_killed_run_goes_on(
    small_plan: Path, few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.conftest import small_split; from edgevit.split.run import split_model\n"
        "split_model(small_split(Path(sys.argv[3])), Path(sys.argv[2]))"
    )
    root = Path(__file__).parents[2]
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "killed"), str(few_digits)]
    process = subprocess.Popen(command, env={**os.environ})
    ends, store = time.monotonic() + 240, tmp_path / "cache/split"
    while not list(store.glob(".sub-*/checkpoint.safetensors")) and time.monotonic() < ends:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    assert list(store.glob(".sub-*/checkpoint.safetensors"))
    told: list[str] = []
    split_model(small_split(few_digits), tmp_path / "killed", progress=lambda what, *_: told.append(what))
    assert not any("the original's answers" in what for what in told), "the pool was made twice"
    assert len(weights(small_plan)) == 4
    assert weights(tmp_path / "killed") == weights(small_plan)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_members_may_have_other_formats_and_levels(tmp_path: Path, few_digits: Path) -> None:
    """Two limits and two devices: another share and another format for each."""
    fleet = Fleet.model_validate(
        {
            "member": [
                {"name": "small", "device": "raspberry-pi-zero-2-w", "memory_mb": 0.2},
                {"name": "large", "device": "raspberry-pi-5", "memory_mb": 0.9},
            ]
        }
    )
    data = {"data": str(few_digits / "train"), "evaluate": str(few_digits / "test")}
    plan = split_model(options(fleet=fleet, levels=(Fraction(1, 6), Fraction(1, 3)), **data), tmp_path / "plan")
    by_member = {one.member: one for one in plan.sub_models}
    assert by_member["small"].keep == "1/6"
    assert by_member["large"].keep == "1/3"
    assert {one.bundle.split("/")[-1] for one in plan.sub_models} <= {"litert-fp32", "onnx-fp32", "executorch-fp32"}
    assert plan.predicted["small"].memory_mb <= 0.2


def test_a_dry_run_shows_compute_and_network(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        '[network]\nmbit_s = 50\n[[member]]\nname = "a"\nlatency_ms = 20\ngmacs_per_s = 0.5\n'
        '[[member]]\nname = "b"\nlatency_ms = 60\ngmacs_per_s = 0.5\n'
    )
    done = cli(
        "split", "deit_digits", "--data", "digits:train", "--fleet", tmp_path / "fleet.toml", "--dry-run", "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {one["member"] for one in said["sub_models"]} == {"a", "b"}
    assert said["predicted"]["a"]["compute_ms"] + said["predicted"]["a"]["network_ms"] <= 20
    assert said["latency_ms"]["with_network"] > said["latency_ms"]["without_network"] > 0
    text = cli("split", "deit_digits", "--data", "digits:train", "--fleet", tmp_path / "fleet.toml", "--dry-run")
    assert "without the network" in text.stdout
    assert "not measured" in text.stdout


def test_a_profile_of_the_whole_model_gives_the_speed(tmp_path: Path, exported: Any) -> None:
    bundle = exported("deit_digits", "onnx")
    done = cli("profile", bundle, "--runs", 30, "--seconds", 0.1, "--allow-noisy", "--json")
    assert done.returncode == 0, done.stderr
    (tmp_path / "host.json").write_text(done.stdout)
    median = json.loads(done.stdout)["profiles"][0]["latency"]["median"]
    (tmp_path / "fleet.toml").write_text(
        "".join(f'[[member]]\nname = "m{i}"\nprofile = "host.json"\n' for i in range(2))
    )
    draft = draft_plan(options(fleet=read_fleet(tmp_path / "fleet.toml")), tmp_path)
    level = draft.problem.levels[draft.assignment.levels[0]]
    expected = median * level.macs / draft.original.macs
    assert draft.predicted["m0"].compute_ms == pytest.approx(expected)
    with pytest.raises(BadFile, match="no latency of"):
        draft_plan(
            SplitOptions(
                "tinyvit_digits", "digits:train", read_fleet(tmp_path / "fleet.toml"), levels=(Fraction(1, 3),)
            ),
            tmp_path,
        )


TWO = '[[member]]\nname = "a"\n{0}\n[[member]]\nname = "b"\n{0}\n'


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["deit_digits", "--data", "digits:train"], "nowhere to write", 2),
        (["deit_digits", "--data", "digits:train", "-o", "p", "--parts", "2", "--keep", "2"], "cannot be kept", 2),
        (["deit_digits", "--data", "digits:train", "--fleet", "tight.toml", "-o", "p"], "memory binds", 3),
    ],
)
def test_bad_requests_say_what_to_do(arguments: list[str], said: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "tight.toml").write_text(TWO.format("memory_mb = 0.02"))
    done = cli("split", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWO.format("memory_mib = 3"), "memory_mib"),
        ('[[member]]\nname = "a"\n[[member]]\nname = "a"\n', "two members are named"),
        ('listen = "nowhere"\n' + TWO.format(""), "listen"),
        ("[[member]\n", "cannot be read"),
        ('name = "empty"\n', "member"),
    ],
)
def test_bad_fleet_files_say_where(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(BadFile, match=said):
        read_fleet(tmp_path / "fleet.toml")
    with pytest.raises(BadFile, match="no fleet file"):
        read_fleet(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"levels": (Fraction(1, 3), Fraction(1, 2))}, "how small"),
        ({"fleet": equal_fleet(11)}, "for 10 classes"),
        ({"fleet": equal_fleet(1)}, "two sub-models or more"),
        ({"model": "mobilevitv2_digits"}, "cannot be pruned"),
        ({"data": "nowhere", "partition": "apart"}, "no folder nowhere"),
        ({"data": "digits:dev", "partition": "apart"}, "no digits split"),
        ({"data": "digits:train:0", "partition": "apart"}, "not a number of draws"),
        ({"drop": 1.0}, "below 1"),
        ({"copies": 3}, "3 copies"),
    ],
)
def test_bad_options_are_refused_before_any_training(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgevitError, match=said):
        draft_plan(replace(options(), **changed))


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    from PIL import Image

    images, labels = digits_arrays("train")
    for label in range(9):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for i in np.flatnonzero(labels == label)[:2]:
            Image.fromarray(images[i]).save(tmp_path / "data" / str(label) / f"{i}.png")
    with pytest.raises(CheckFailed, match="no picture of '9'"):
        split_model(
            SplitOptions("deit_digits", str(tmp_path / "data"), equal_fleet(2), levels=(Fraction(1, 3),), jobs=1),
            tmp_path / "plan",
        )
    assert not (tmp_path / "plan").exists()
