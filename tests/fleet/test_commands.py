"""A fleet from the command line, as its users run it: real bundles, real processes, every kind of input."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import edgevit
from edgevit.data.digits import digits_arrays
from edgevit.fleet.frames import Frame
from edgevit.schema.plan import read_plan
from tests.conftest import cli
from tests.fleet.lab import free_port

MEMBERS = ("member-1", "member-2", "member-3")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(digits_arrays("test")[0][:6]):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def serving(plan: Path, *further: str, names: tuple[str, ...] = MEMBERS) -> Iterator[list[subprocess.Popen[str]]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "edgevit.cli.app", "fleet", "serve", str(plan), "--member", name, *further],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_the_whole_fleet_in_one_process(small_plan: Path, pictures: Path) -> None:
    done = cli("fleet", "run", small_plan, "--local", "--input", pictures, "--json", "--top", 3)
    assert done.returncode == 0, done.stderr
    *answers, end = lines(done.stdout)
    assert [Path(str(one["image"])).name for one in answers] == [f"{i}.png" for i in range(6)]
    assert all(set(one["members"].values()) == {"answered"} for one in answers)  # type: ignore[attr-defined]
    assert all(len(one["classes"]) == 3 for one in answers)  # type: ignore[arg-type]
    assert end["summary"]["complete"] == 6  # type: ignore[index]
    text = cli("fleet", "run", small_plan, "--local", "--input", pictures / "0.png", "--method", "scores")
    assert "3/3" in text.stdout


def test_members_a_coordinator_and_status(small_plan: Path, pictures: Path, tmp_path: Path) -> None:
    certs, address = tmp_path / "certs", f"127.0.0.1:{free_port()}"
    assert cli("fleet", "certs", small_plan, "--out", certs).returncode == 0
    with serving(small_plan, "--connect", address, "--certs", str(certs)) as members:
        asked = ("--listen", address, "--certs", certs, "--input", pictures, "--wait", 60, "--json")
        done = cli("fleet", "run", small_plan, *asked)
        assert done.returncode == 0, done.stderr
        local = cli("fleet", "run", small_plan, "--local", "--input", pictures, "--json")
        wired, here = (
            [one["classes"][0]["label"] for one in lines(text.stdout)[:-1]]  # type: ignore[index]
            for text in (done, local)
        )
        assert sum(a == b for a, b in zip(wired, here, strict=True)) >= 5  # JPEG changes pixels a little
        well = cli("fleet", "status", small_plan, "--connect", address, "--certs", certs, "--wait", 30, "--json")
        assert well.returncode == 0, well.stderr
        said = json.loads(well.stdout)["members"]
        assert [one["state"] for one in said] == ["healthy"] * 3
        assert all(one["said"]["answered"] == 6 for one in said)
        members[1].send_signal(signal.SIGTERM)
        assert members[1].wait(20) == 0
        ill = cli("fleet", "status", small_plan, "--connect", address, "--certs", certs, "--wait", 2)
        assert ill.returncode == 3
        assert "absent" in ill.stdout


def test_nobody_there(small_plan: Path, pictures: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = cli("fleet", "run", small_plan, "--listen", address, "--input", pictures, "--wait", 1)
    assert done.returncode == 6
    assert "no member came within 1 s" in done.stderr
    assert "fleet serve" in done.stderr


def test_a_member_refuses_a_bundle_that_is_not_the_plan_s(small_plan: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    shutil.copytree(small_plan, plan)
    one = read_plan(plan).of("member-1")[0]
    model = next((plan / one.bundle).glob("*.onnx"))
    original = model.read_bytes()
    model.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    done = cli("fleet", "serve", plan, "--member", "member-1")
    assert done.returncode == 3, done.stderr
    model.write_bytes(original)
    other = read_plan(plan).of("member-2")[0]
    shutil.rmtree(plan / one.bundle)
    shutil.copytree(plan / other.bundle, plan / one.bundle)
    done = cli("fleet", "serve", plan, "--member", "member-1")
    assert done.returncode == 3, done.stderr
    assert "is not the plan's" in done.stderr
    assert cli("fleet", "serve", plan, "--member", "member-9").returncode == 2


def test_a_member_needs_its_own_bundle_only(small_plan: Path, pictures: Path, tmp_path: Path) -> None:
    """Of the plan's folder a device gets plan.json, fleet.toml and its own sub-model."""
    plan, address = tmp_path / "plan", f"127.0.0.1:{free_port()}"
    one = read_plan(small_plan).of("member-2")[0]
    plan.mkdir()
    for leaf in ("plan.json", "fleet.toml"):
        shutil.copy(small_plan / leaf, plan / leaf)
    shutil.copytree(small_plan / one.bundle, plan / one.bundle)
    with serving(plan, "--connect", address, names=("member-2",)):
        done = cli("fleet", "run", small_plan, "--listen", address, "--input", pictures, "--wait", 15, "--json")
    assert done.returncode == 0, done.stderr
    assert "without" in done.stderr
    *answers, end = lines(done.stdout)
    assert all(one["members"]["member-2"] == "answered" for one in answers)  # type: ignore[index]
    assert end["summary"]["partial"] == 6  # type: ignore[index]


def test_changed_plans_are_refused(small_plan: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    shutil.copytree(small_plan, plan)
    (plan / "fusion.safetensors").write_bytes(b"x")
    assert cli("fleet", "run", plan, "--local", "--input", plan).returncode == 3
    text = (small_plan / "plan.json").read_text()
    document = json.loads(text)
    for change, said in (
        ({"bundle": "../../etc"}, "leaves the plan"),
        ({"bundle": "/etc"}, "leaves the plan"),
        ({"member": "a/b"}, "member"),
        ({"colour": "red"}, "colour"),
    ):
        hostile = {**document, "sub_models": [{**document["sub_models"][0], **change}]}
        (plan / "plan.json").write_text(json.dumps(hostile))
        done = cli("fleet", "run", plan, "--local", "--input", plan)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
    (plan / "plan.json").write_text(text[:100])
    assert cli("fleet", "run", plan, "--local", "--input", plan).returncode == 2


def test_inputs_of_every_kind(small_plan: Path, pictures: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "edgevit.cli.app", "fleet", "run", str(small_plan), "--local", "--json", "--input"]
    frames = []
    for i in range(3):
        out = io.BytesIO()
        Image.open(pictures / f"{i}.png").save(out, "JPEG", quality=95)
        frames.append(out.getvalue())
    paths = "\n".join(str(pictures / f"{i}.png") for i in range(3)) + "\n"
    for given in (b"".join(frames), paths.encode()):
        done = subprocess.run([*run, "-"], input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(lines(done.stdout.decode())) == 4
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for i in range(4):
        writer.write(cv2.resize(cv2.imread(str(pictures / f"{i}.png")), (64, 64)))
    writer.release()
    done = subprocess.run([*run, str(tmp_path / "v.avi"), "--limit", "3"], capture_output=True, check=False)
    assert len(lines(done.stdout.decode())) == 4, done.stderr
    (tmp_path / "broken.avi").write_bytes(b"no video")
    for given, code in ((tmp_path / "broken.avi", 2), (tmp_path / "none", 2), ("camera:9", 6)):
        done = subprocess.run([*run, str(given)], capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr


def test_from_python(small_plan: Path, pictures: Path) -> None:
    with edgevit.open_fleet(small_plan) as fleet:
        best = fleet.predict(pictures / "0.png", top=2)
        assert len(best) == 2
        assert best[0].label in "0123456789"
        assert fleet.tally.complete == 1


def test_a_member_imports_no_torch(small_plan: Path) -> None:
    code = (
        "import sys, threading\nfrom pathlib import Path\nfrom edgevit.fleet.serve import serve\n"
        "stop = threading.Event(); threading.Timer(2, stop.set).start()\n"
        f"serve(Path({str(small_plan)!r}), 'member-1', address='127.0.0.1:9', stop=stop)\n"
        "print([name for name in ('torch', 'timm', 'scipy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_closed_with_images_in_the_air(small_plan: Path) -> None:
    fleet = edgevit.open_fleet(small_plan)
    height, width = fleet.rule.size
    asked = [fleet.ask(Frame("", bytes(height * width * 3), "raw")) for _ in range(40)]
    asked[0].result(10)
    fleet.close()
    assert all(one.done() for one in asked), "who waits for one must not wait for ever"
    answered = [one for one in asked if not one.cancelled()]
    assert 0 < len(answered) == fleet.tally.requests
    assert fleet.tally.adds_up()


def test_a_member_stops_whichever_thread_hears_the_signal(small_plan: Path) -> None:
    code = (
        "import signal, threading, time\nfrom pathlib import Path\nfrom edgevit.fleet.serve import serve\n"
        "stop = threading.Event(); signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
        "def hear(): time.sleep(1); signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "threading.Thread(target=hear).start()\n"
        f"serve(Path({str(small_plan)!r}), 'member-1', address='127.0.0.1:9', stop=stop)\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
