"""Devices in namespaces: killed, stopped and cut off, over links with a delay. Needs root."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.lab import ROOT, netlab

pytestmark = pytest.mark.system


@pytest.mark.skipif(bool(netlab.missing()), reason=netlab.missing())
def test_a_lost_member_slows_few_requests_touches_no_other_and_is_used_again(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "tools/bench/fleet.py"), "--only", "faults", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["faults"]
    assert found["adds_up"]
    for loss, back in (("kill", "start"), ("stop", "continue"), ("partition", "heal")):
        assert found[loss]["late"] <= 5, found
        assert found[loss]["others_missing"] == found[back]["others_missing"] == 0, found
        assert found[loss]["unanswered"] == found[back]["unanswered"] == 0, found
        assert found[back]["used_again_after_s"] is not None, found
        assert found[back]["used_again_after_s"] < 5, found
