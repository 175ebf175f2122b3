"""What the host's side of an SSH profile costs: its medians beside those of the runner started by hand.

    python tools/bench/ssh_overhead.py BUNDLE ssh://USER@HOST [--ssh-config FILE] [--rounds 6]

The two alternate; the ratio of their medians is printed for each round, and over all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from edgevit.bundle.golden import FOLDER
from edgevit.bundle.read import read_bundle
from edgevit.devices.base import Reach, open_device
from edgevit.devices.runner_process import runner_file
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile, runtime_for

SETTINGS = Settings(threads=1, seconds=5, least_seconds=5)


def by_hand(bundle: Path, runtime: str) -> float:
    """The runner alone on this machine; median of its runs in milliseconds."""
    opened = read_bundle(bundle)
    job = SETTINGS.job(1) | {"mode": "profile", "runtime": runtime, "model": str(opened.entry), "energy_s": 0}
    job |= {"inputs": str(bundle / FOLDER / "inputs.safetensors"), "deadline_s": 300}
    process = subprocess.Popen(
        [sys.executable, "-u", str(runner_file("linux", "runner.py")), json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    events = [json.loads(line) for line in process.stdout]
    process.communicate()
    return statistics.median(ns for event in events if event["event"] == "runs" for ns in event["ns"]) / 1e6


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("uri")
    parser.add_argument("--ssh-config", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    device = open_device(options.uri, Reach(ssh_config=options.ssh_config))
    bundle, ratios = read_bundle(options.bundle), []
    runtime = runtime_for(bundle, device).engine
    for number in range(options.rounds):
        pair = {}
        for side in ("hand", "ssh") if number % 2 else ("ssh", "hand"):
            if side == "hand":
                pair[side] = by_hand(options.bundle, runtime)
            else:
                found = profile(bundle, device, replace(SETTINGS, energy_s=0.1))
                pair[side] = statistics.median(found.samples_ms)
        ratios.append(pair["ssh"] / pair["hand"])
        print(f"by hand {pair['hand']:.4f} ms, over SSH {pair['ssh']:.4f} ms, ratio {ratios[-1]:.4f}", flush=True)
    device.close()
    print(f"median ratio {statistics.median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    main()
