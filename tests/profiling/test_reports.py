"""What is made of profiles: pages, tables, published results."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.devices.base import Reach, open_device
from edgevit.errors import BadFile, CheckFailed, UsageError
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile
from edgevit.profiling.publish import publish
from edgevit.report.charts import histogram, ticks
from edgevit.report.profiles import pareto, profile_markdown, profile_page
from edgevit.schema.profile import Profile, parse_profiles
from tests.conftest import Exported, cli, cli_json


@pytest.fixture(scope="module")
def measured(exported: Exported) -> Profile:
    device = open_device("local:", Reach())
    settings = Settings(
        threads=1, runs=50, seconds=2, least_seconds=0.3, warmup_limit_s=3, per_op=True, sustained_s=0.5
    )
    return profile(read_bundle(exported()), device, settings, evaluated=("digits:test", 0.99))


def better(one: Profile, **changes: object) -> Profile:
    return one.model_copy(update={"status": "stable", "reasons": (), **changes})


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "br", "link", "input"):
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href", "onclick"), (tag, name, value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_the_page_is_whole_and_fetches_nothing(measured: Profile) -> None:
    other = better(
        measured, artifact=measured.artifact.model_copy(update={"bundle": "<script>x</script>", "accuracy": 0.9})
    )
    tags = Tags()
    text = profile_page([measured, other])
    tags.feed(text)
    assert tags.open == [] and tags.seen.count("svg") >= 6 and "script" not in tags.seen
    assert "Accuracy and latency" in text and "In the order of time" in text and "Time by operator" in text


def test_an_emulated_profile_says_so_everywhere(measured: Profile) -> None:
    device = measured.device.model_copy(update={"emulator": "qemu-aarch64-static", "model": "Raspberry Pi 5"})
    emulated = better(measured, device=device, emulated=True)
    for text in (profile_page([emulated]), profile_markdown([emulated])):
        assert "emulated" in text.lower() and "Raspberry Pi 5" not in text


def test_profiles_survive_their_file(measured: Profile, tmp_path: Path) -> None:
    text = json.dumps({"profiles": [measured.to_dict()]})
    assert parse_profiles(text, "x") == [Profile.model_validate(measured.to_dict())]
    for bad in ("", "[]", "{}", '{"profiles": [{}]}', '{"profiles": 1}', '{"a": 1, "a": 2}', "[" * 9999):
        with pytest.raises(BadFile):
            parse_profiles(bad, "x")


@pytest.mark.parametrize(
    "changes",
    [{"status": "unstable"}, {"status": "partial"}, {"status": "wrong"}, {"emulated": True}, {"answers": None},
     {"latency": None}],
)  # fmt: skip
def test_what_should_not_be_believed_is_not_published(
    measured: Profile, changes: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    publish([better(measured)], path)
    before = path.read_text()
    with pytest.raises(CheckFailed):
        publish([better(measured), better(measured, **changes)], path)
    assert path.read_text() == before and len(before.splitlines()) == 1
    publish([better(measured)], path)
    assert len(path.read_text().splitlines()) == 2 and list(tmp_path.iterdir()) == [path]
    assert Profile.model_validate_json(path.read_text().splitlines()[1]).samples_ms == ()


def test_the_front_is_what_no_other_beats() -> None:
    assert pareto([(1, 0.9), (2, 0.95), (3, 0.94), (1.5, 0.8), (4, 0.99)]) == [True, True, False, False, True]
    assert pareto([(1, 0.9), (1, 0.9)]) == [True, True]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.171, 0.232), (99.56, 99.56), (0, 0), (-3.2, 1e6), (5e-7, 6e-7)]
)
def test_ticks_cover_their_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9


def test_a_histogram_of_one_value() -> None:
    assert "<rect" in histogram([1.0] * 50, {"median": 1.0}, "ms")


@pytest.mark.parametrize(
    "arguments",
    [("--report", "x.pdf"), ("--cpus", "a-b"), ("--seconds", "0"), ("--threads", "0"), ("-d", "nowhere")],
)
def test_bad_options(arguments: tuple[str, ...], exported: Exported, tmp_path: Path) -> None:
    done = cli("profile", exported(), *arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["runs", "seconds", "warmup_window_s", "threads"])
def test_bad_settings(name: str) -> None:
    with pytest.raises(UsageError):
        Settings(**{name: 0})


def test_cores_and_threads_are_kept(exported: Exported) -> None:
    found = cli_json("profile", exported(), "--cpus", "0", "--threads", "1", "--seconds", "0.5", "--allow-noisy")
    assert found["profiles"][0]["runtime"] | {"version": ""} == {
        "name": "onnxruntime", "version": "", "threads": 1, "cpus": [0], "accelerator": "cpu",
    }  # fmt: skip


def test_a_core_ml_bundle_names_where_it_runs(exported: Exported) -> None:
    done = cli("profile", exported(target="coreml"), "-d", "local:")
    assert done.returncode == 2 and "are measured on ios" in done.stderr


def test_executorch_runs_here_with_its_own_bindings(exported: Exported) -> None:
    found = cli_json("profile", exported(target="executorch"), "--seconds", "1", "--allow-noisy", "--per-op")
    one = found["profiles"][0]
    assert one["answers"]["equal"] and one["runtime"]["name"] == "executorch"
    assert any(row["unit"] == "XNNPACK" for row in one["operators"])


def test_an_int8_bundle_is_judged_as_one(exported: Exported) -> None:
    found = cli_json("profile", exported(target="litert", precision="int8"), "--seconds", "0.5", "--allow-noisy")
    assert found["profiles"][0]["answers"]["equal"]
