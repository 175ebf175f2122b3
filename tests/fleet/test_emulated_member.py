"""One member of a fleet on an emulated ARM64 Raspberry Pi, the others here: one answer from two kinds of processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import cli
from tests.devices.test_emulated import able  # noqa: F401  # a fixture
from tests.fleet.lab import ROOT, free_port
from tests.fleet.test_commands import pictures, serving  # noqa: F401  # a fixture among them
from tools.lab.emulated import emulated_pi

pytestmark = pytest.mark.system

NEEDS = (
    "numpy",
    "pydantic",
    "typer",
    "rich",
    "pillow",
    "safetensors",
    "platformdirs",
    "psutil",
)
PYTHON = "3.13"


def install_for_pi(folder: Path, *further: str) -> None:
    """edgevit and what it needs beside, from aarch64 wheels: no torch."""
    platforms = [part for name in ("2_28", "2_27", "2_17") for part in ("--platform", f"manylinux_{name}_aarch64")]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(folder),
    ]
    command += [*platforms, "--platform", "manylinux2014_aarch64", "--python-version", PYTHON, "--only-binary=:all:"]
    subprocess.run([*command, *NEEDS, *further], check=True, capture_output=True)
    for part in ("edgevit", "targets"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    # installed, it would have these beside it
    (folder / "edgevit-0.1.0.dist-info").mkdir()
    (folder / "edgevit-0.1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: edgevit\nVersion: 0.1.0\n")
    text = (ROOT / "pyproject.toml").read_text()
    import tomllib

    groups = tomllib.loads(text)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in groups.items()]
    (folder / "edgevit-0.1.0.dist-info/entry_points.txt").write_text("\n".join(lines))


def end_all_of(inside: str) -> None:
    """End what runs from a folder of the emulated computer."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if f"{inside}/plan" in line and "fleet serve" in line and "ssh" not in line.split()[0]:
            process.kill()


def test_a_member_on_an_emulated_raspberry_pi(small_plan: Path, pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    certs, address = tmp_path / "certs", f"127.0.0.1:{free_port()}"
    assert cli("fleet", "certs", small_plan, "--out", certs).returncode == 0
    with emulated_pi(13, "cortex-a76", tmp_path / "pi") as pi:
        home = pi.root / "home/pi" / f"fleet-{os.getpid()}"
        try:
            home.mkdir()
            install_for_pi(home / "site", "onnxruntime", "eclipse-zenoh==1.10.*", "cryptography>=44")
            shutil.copytree(small_plan, home / "plan")
            (home / "certs").mkdir()
            for leaf in ("ca.pem", "member-1.pem", "member-1.key"):
                shutil.copy(certs / leaf, home / "certs" / leaf)
            for path in (home, *home.rglob("*")):
                os.chown(path, 1000, 1000)
            inside = f"/{home.relative_to(pi.root)}"
            host, port = pi.uri.removeprefix("ssh://").rsplit(":", 1)
            command = ["ssh", "-F", str(pi.ssh_config), "-p", port, host]
            command += [
                f"PYTHONPATH={inside}/site python3 -m edgevit.cli.app fleet serve {inside}/plan --member member-1 "
                f"--certs {inside}/certs --connect {address}"
            ]
            pi_member = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            try:
                more = ("--connect", address, "--certs", str(certs))
                with serving(small_plan, *more, names=("member-2", "member-3")):
                    asked = ["--listen", address, "--certs", certs, "--input", pictures, "--wait", 120]
                    done = cli("fleet", "run", small_plan, *asked, "--deadline", 5000, "--json")
            finally:
                end_all_of(inside)  # ending ssh would leave it running
                said = pi_member.communicate(timeout=30)[1]
        finally:
            shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stderr + said
    *answers, end = [json.loads(line) for line in done.stdout.splitlines()]
    assert end["summary"]["complete"] == len(answers) == 6, done.stdout + said
    local = cli("fleet", "run", small_plan, "--local", "--input", pictures, "--json")
    here = [json.loads(line) for line in local.stdout.splitlines()[:-1]]
    same = sum(a["classes"][0]["label"] == b["classes"][0]["label"] for a, b in zip(answers, here, strict=True))
    assert same >= 5  # JPEG changes pixels a little
