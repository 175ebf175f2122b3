"""The bundles of tinyvit_digits on emulated ARM64 computers: Debian 12 and 13, three processors, three runtimes.

    python tools/lab/emulated_matrix.py [--old-onnxruntime]

With --old-onnxruntime also version 1.21.0, whose aarch64 wheel uses instructions that a Raspberry Pi 3 and 4 lack.
Prints a table in Markdown: whether the golden vectors are reproduced. There are no latencies in it: they would mean
nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from edgevit.bundle.read import read_bundle
from edgevit.devices.base import Reach, open_device
from edgevit.errors import EdgevitError
from edgevit.pipeline.export import export
from edgevit.pipeline.options import ExportOptions
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile
from tools.lab.emulated import CPUS, SUITES, emulated_pi

FORMATS = ("litert", "onnx", "executorch")
OLD = "onnxruntime==1.21.0"
SHORT = Settings(threads=1, runs=10, seconds=1, least_seconds=0.2, warmup_limit_s=2, warmup_window_s=0.2, energy_s=0.5)


def answers(bundle: Path, uri: str, reach: Reach) -> str:
    """One cell: equal, or what went wrong."""
    try:
        device = open_device(uri, reach)
        try:
            found = profile(read_bundle(bundle), device, SHORT)
        finally:
            device.close()
    except EdgevitError as error:
        return error.message
    if found.answers is None:
        return "no answers"
    return f"equal, error {found.answers.error:.1e}" if found.answers.equal else found.answers.reasons[0]


def old_runtime(root: Path, debian: int) -> None:
    """The old wheel in edgevit's own folder on the device."""
    folder = root / "home/pi/.cache/edgevit/runtimes/onnxruntime"
    tag = {12: "311", 13: "313"}[debian]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--only-binary=:all:", "--target", folder]
    command += ["--implementation", "cp", "--python-version", tag, "--platform", "manylinux_2_28_aarch64"]
    command += ["--platform", "manylinux_2_27_aarch64", "--platform", "manylinux2014_aarch64", "--upgrade", OLD]
    subprocess.run(command, check=True)
    subprocess.run(["chown", "-R", "1000:1000", root / "home/pi/.cache"], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old-onnxruntime", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = export(ExportOptions("tinyvit_digits", FORMATS, out=Path(scratch) / "build"), lambda event: None)
        bundles = {target: result.path for target, result in zip(FORMATS, results, strict=True)}
        columns = [*FORMATS, *([OLD] if options.old_onnxruntime else [])]
        print("| userland | processor | " + " | ".join(columns) + " |")
        print("|" + " --- |" * (len(columns) + 2))
        for debian in SUITES:
            for cpu in CPUS:
                with emulated_pi(debian, cpu, Path(scratch) / f"{debian}-{cpu}") as pi:
                    reach = Reach(ssh_config=pi.ssh_config, install_runtime=True)
                    cells = [answers(path, pi.uri, reach) for path in bundles.values()]
                    if options.old_onnxruntime:
                        old_runtime(pi.root, debian)
                        cells.append(answers(bundles["onnx"], pi.uri, Reach(ssh_config=pi.ssh_config)))
                    device = open_device(pi.uri, Reach(ssh_config=pi.ssh_config))
                    device.clean()
                    device.close()
                print(f"| Debian {debian} | {cpu} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
