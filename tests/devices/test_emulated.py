"""An emulated ARM64 Raspberry Pi and Android's real adbd on emulated ARM64: the aarch64 runtimes, end to end.

`tools/lab/emulated_matrix.py` runs Debian 12 and 13 on three processors; here is one of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.devices.base import Reach, open_device
from edgevit.errors import CheckFailed
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile
from edgevit.profiling.publish import check_publishable, publish
from edgevit.schema.profile import Profile
from tests.conftest import Exported
from tools.lab.emulated import emulated_adbd, emulated_pi, install, register_binfmt

pytestmark = pytest.mark.system

SHORT = Settings(
    threads=1, runs=10, seconds=1, least_seconds=0.2, warmup_limit_s=3, warmup_window_s=0.2, energy_s=1, per_op=True,
    operator_runs=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def able() -> None:
    """Only root can build and enter another root file system, and only where the kernel lets it."""
    if os.geteuid() != 0:
        pytest.skip("only root can do this")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    install("qemu-aarch64-static")
    try:
        register_binfmt()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the kernel does not take foreign programs here: {error}")


def check_emulated(found: Profile, tmp_path: Path) -> None:
    assert found.answers is not None and found.answers.equal and found.answers.probes == 6
    assert found.latency is not None and found.latency.runs >= 10
    assert found.emulated and found.device.emulator.startswith("qemu-aarch64") and found.device.machine == "aarch64"
    with pytest.raises(CheckFailed, match="cannot be published"):
        publish([found], tmp_path / "results.jsonl")
    # Not even where it is called stable and its flag was taken off.
    flattered = found.model_copy(update={"status": "stable", "reasons": (), "emulated": False})
    with pytest.raises(CheckFailed, match="emulated"):
        check_publishable(flattered)
    assert not (tmp_path / "results.jsonl").exists()


# LiteRT runs over adb below; all of them on more systems: tools/lab/emulated_matrix.py.
@pytest.mark.parametrize(
    "targets", [("onnx",), pytest.param(("litert", "executorch"), marks=pytest.mark.matrix)], ids=" and ".join
)
def test_bundles_on_an_emulated_raspberry_pi(exported: Exported, tmp_path: Path, targets: tuple[str, ...]) -> None:
    with emulated_pi(13, "cortex-a76", tmp_path / "pi") as pi:
        device = open_device(pi.uri, Reach(ssh_config=pi.ssh_config, install_runtime=True))
        for target in targets:
            found = profile(read_bundle(exported(target=target)), device, SHORT)
            check_emulated(found, tmp_path)
            assert found.device.model == "Raspberry Pi 5 Model B Rev 1.0"
            assert found.conditions[0].temperature_c == {"cpu-thermal": 48.75}
            assert found.conditions[0].frequency_khz == {"policy0": 2_400_000}
            assert found.energy is not None and found.energy.busy_watts == pytest.approx(0.07 * 3.7 + 1.5 * 0.8)
            assert sum(row.us for row in found.operators) > 0
        assert device.clean() > 50e6
        device.close()


@pytest.mark.parametrize("target", ["litert", pytest.param("executorch", marks=pytest.mark.matrix)])
def test_android_over_the_real_adb(exported: Exported, tmp_path: Path, target: str) -> None:
    with emulated_adbd("cortex-a76", tmp_path / "adbd") as phone:
        command = [sys.executable, "-m", "edgevit.cli.app", "profile", str(exported(target=target))]
        command += ["-d", f"adb://{phone.serial}", "--install-runtime", "--json"]
        command += ["--seconds", "1", "--runs", "10", "--threads", "1", "--allow-noisy", "-q"]
        environment = {**os.environ, **phone.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        for one in json.loads(done.stdout)["profiles"]:
            check_emulated(Profile.model_validate(one), tmp_path)
            assert one["device"]["model"] == "Debian adbd on arm64" and one["device"]["os"] == "Android 15"
            assert one["conditions"][0]["temperature_c"]["BIG"] == 45.0
            assert one["conditions"][0]["battery"]["level"] == "77 %"
        left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "runner.py" not in [line for line in left.splitlines() if "/data/local/tmp/edgevit" in line]
        clean = [sys.executable, "-m", "edgevit.cli.app", "devices", f"adb://{phone.serial}", "--clean"]
        assert subprocess.run(clean, env=environment, capture_output=True, check=False).returncode == 0
        assert not (phone.root / "data/local/tmp/edgevit").exists()
