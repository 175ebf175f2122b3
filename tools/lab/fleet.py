"""A fleet to experiment on: members that compute a known function, as processes of their own.

Every picture carries a number in its first pixel; each member's features say that number, and so does the fused
answer, whoever is missing. An answer that belongs to another picture is seen at once. Used by the tests and by
`tools/bench/fleet.py`; a member is started with

    python tools/lab/fleet.py PLAN MEMBER --address HOST:PORT [--certs DIR] [--delay MS] [--mode MODE]
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.core.digest import sha256_file
from edgevit.core.fusion import FusionHead, save_head
from edgevit.fleet import serve as serving_module
from edgevit.fleet.config import Security
from edgevit.fleet.member import Serving
from edgevit.fleet.serve import serve
from edgevit.schema.plan import FLEET, FUSION, PLAN, Fleet, Plan, read_plan

CLASSES = 10
MODES = ("normal", "corrupt", "other-plan", "fails")


def synthetic_plan(folder: Path, members: int, *, listen: str, size: int = 32, features: int = 16) -> Plan:
    """Write a plan whose members can only be computed by this module.

    Args:
        folder: made here.
        members: how many, named ``m0``, ``m1``, ...
        listen: HOST:PORT of the coordinator.
        size: side of the pictures.
        features: of each member, at least `CLASSES`.
    """
    folder.mkdir(parents=True)
    identity = np.eye(CLASSES, features, dtype=np.float32)
    own = np.concatenate([np.zeros((1, features), np.float32), identity]), np.zeros(CLASSES + 1, np.float32)
    head = FusionHead(
        mean=np.zeros(members * features, np.float32),
        scale=np.ones(members * features, np.float32),
        hidden_weight=np.concatenate([np.tile(identity, (1, members)), np.zeros((CLASSES, members), np.float32)], 1),
        hidden_bias=np.zeros(CLASSES, np.float32),
        weight=np.eye(CLASSES, dtype=np.float32),
        bias=np.zeros(CLASSES, np.float32),
        heads=(own,) * members,
        classes=(tuple(range(CLASSES)),) * members,
    )
    save_head(head, folder / FUSION)
    fleet = Fleet.model_validate(
        {"name": "lab", "listen": listen, "member": [{"name": f"m{i}"} for i in range(members)]}
    )
    (folder / FLEET).write_text(fleet.to_toml())
    digest = [hashlib.sha256(f"m{i}".encode()).hexdigest() for i in range(members)]
    plan = Plan.model_validate(
        {
            "edgevit": "0",
            "created": "",
            "model": {"name": "lab", "parameters": 1, "macs": 1, "bytes": 4},
            "labels": [str(i) for i in range(CLASSES)],
            "preprocess": {
                "size": (size, size),
                "crop_pct": 1.0,
                "crop_mode": "center",
                "interpolation": "bicubic",
                "antialias": True,
                "mean": (0.5,) * 3,
                "std": (0.5,) * 3,
                "normalise_in_graph": True,
            },
            "assignment": "given",
            "partition": "given",
            "seed": 0,
            "minutes": 0,
            "sub_models": [
                {
                    "name": f"sub-{i}",
                    "member": f"m{i}",
                    "classes": list(range(CLASSES)),
                    "keep": "1",
                    "bundle": f"models/sub-{i}",
                    "bundle_sha256": digest[i],
                    "features": features,
                    "parameters": 1,
                    "macs": 1,
                    "bytes": 4,
                    "accuracy": 1,
                }
                for i in range(members)
            ],
            "fusion": {"sha256": sha256_file(folder / FUSION), "hidden": CLASSES, "dropped": 0},
            "accuracy": {
                "pictures": 1,
                "dataset": "",
                "measured_with": "",
                "original": 1,
                "fused": 1,
                "scores_fused": 1,
                "one_missing": [],
            },
            "predicted": {},
        }
    )
    (folder / PLAN).write_text(plan.to_json())
    return plan


def picture(number: int, size: int = 32) -> bytes:
    """A raw picture that carries a number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
    pixels[:8, :8] = 25 * (number % CLASSES) + 12
    return pixels.tobytes()


def said(pixels: NDArray[np.uint8]) -> int:
    """The number that a picture carries; JPEG does not change it."""
    return int(pixels[2:6, 2:6].mean()) // 25


@dataclass(frozen=True)
class Behaviour:
    """How a member differs from a good one.

    Attributes:
        delay: seconds of compute.
        mode: one of `MODES`.
        features: how many it gives.
    """

    delay: float
    mode: str
    features: int

    def compute(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The known function."""
        if self.mode == "fails":
            raise RuntimeError("the runtime broke")
        found = np.zeros(self.features, np.float32)
        found[said(pixels)] = 10
        if self.delay:
            time.sleep(self.delay)
        return found


class _Tampered:
    """A query whose reply is changed after its digest was made."""

    def __init__(self, query: Any) -> None:
        self._query = query

    def __getattr__(self, name: str) -> Any:
        return getattr(self._query, name)

    def reply(self, key: str, payload: bytes, **further: Any) -> None:
        changed = bytearray(payload)
        changed[1] ^= 0x40
        self._query.reply(key, bytes(changed), **further)


class Corrupting(Serving):
    """Sends something else than it computed."""

    def _answer(self, query: Any, arrived: float) -> bool:
        return super()._answer(_Tampered(query), arrived)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("member")
    parser.add_argument("--address", required=True)
    parser.add_argument("--certs", type=Path)
    parser.add_argument("--transport", default="quic")
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--delay", type=float, default=0, metavar="MS")
    parser.add_argument("--mode", choices=MODES, default="normal")
    given = parser.parse_args()
    plan, stop = read_plan(given.plan), threading.Event()
    if given.mode == "corrupt":
        serving_module.serving = _as(Corrupting)
    if given.mode == "other-plan":
        serving_module.serving = _as(Serving, digest=b"\1" * 16)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    width = sum(one.features for one in plan.of(given.member))
    serve(
        given.plan,
        given.member,
        address=given.address,
        security=Security(given.certs, given.transport, given.insecure),
        compute=Behaviour(given.delay / 1e3, given.mode, width).compute,
        stop=stop,
        notice=lambda text: print(text, flush=True),
    )


def _as(kind: type[Serving], **changed: Any) -> Callable[..., Serving]:
    from edgevit.fleet.member import member_digest

    def make(session: Any, fleet: str, plan: Plan, member: str, compute: Any, **further: Any) -> Serving:
        values = {"digest": member_digest(plan, member), **changed}
        return kind(session, fleet, member, values["digest"], plan.preprocess.rule(), compute, **further)

    return make


def command(plan: Path, member: str, address: str, *further: object) -> list[str]:
    """What starts a member."""
    return [sys.executable, __file__, str(plan), member, "--address", address, *map(str, further)]


def start(commands: Sequence[Sequence[str]], logs: Path) -> list[subprocess.Popen[bytes]]:
    """Start members; their output goes to one file each."""
    logs.mkdir(exist_ok=True)
    found = []
    for number, one in enumerate(commands):
        with (logs / f"{number}-{time.monotonic_ns()}.log").open("wb") as log:
            found.append(subprocess.Popen(one, stdout=log, stderr=subprocess.STDOUT))
    return found


if __name__ == "__main__":
    main()
