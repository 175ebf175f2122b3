"""A member of a fleet: computes features with its own sub-models, and reports when it cannot.

Needs numpy, Pillow, the runtime of its bundle and the engine: no torch.
"""

from __future__ import annotations

import io
import json
import os
import platform
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.backends.base import find_backend
from edgevit.bundle.golden import read_golden
from edgevit.bundle.read import read_bundle
from edgevit.bundle.write import MANIFEST
from edgevit.core.digest import sha256_file
from edgevit.core.fusion import as_sent
from edgevit.data.images import MAX_MEGAPIXELS, as_input, to_model_size
from edgevit.errors import CheckFailed, EnvironmentIncomplete, UnknownName
from edgevit.fleet.config import CLOSE_S
from edgevit.fleet.wire import (
    BAD_REQUEST,
    BUSY,
    EXPIRED,
    FOLLOW_S,
    OTHER_PLAN,
    Encoding,
    Malformed,
    Reply,
    alive_key,
    infer_key,
    member_digest,
    nudge_key,
    read_request,
    status_key,
)
from edgevit.schema.model import Preprocessing
from edgevit.schema.plan import Plan, SubModel
from edgevit.verify.judge import judge, why_not_here

ComputeFeatures = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""[H, W, 3] uint8 at the model's size to the features of all of a member's sub-models, one after another."""
QUEUE = 8
"""Images that may wait at a member, twice the coordinator's default window; further ones are refused as ``busy``."""


def load_compute(folder: Path, plan: Plan, member: str) -> ComputeFeatures:
    """Load a member's bundles, check every digest, and run their golden inputs.

    Args:
        folder: the plan's; other members' bundles need not be there.
        plan: its description.
        member: name of the member.

    Raises:
        UnknownName: the plan has no such member.
        BadFile: a bundle is missing.
        CheckFailed: a bundle is not the plan's, or computes something else on this machine.
    """
    mine = plan.of(member)
    if not mine:
        raise UnknownName("member", member, plan.members())
    runners = [_load(folder, one) for one in mine]
    if len(runners) == 1:
        return runners[0]
    return lambda pixels: np.concatenate([runner(pixels) for runner in runners])


def _load(folder: Path, sub_model: SubModel) -> ComputeFeatures:
    bundle = read_bundle(folder / sub_model.bundle)
    if sha256_file(bundle.path / MANIFEST) != sub_model.bundle_sha256:
        raise CheckFailed(
            f"the bundle of {sub_model.name} is not the plan's",
            where=str(bundle.path),
            cure="copy the plan's folder to this device again",
        )
    manifest = bundle.manifest
    why_not = why_not_here(manifest)
    if why_not:
        raise CheckFailed(f"{sub_model.name} cannot run here: {why_not}", where=str(bundle.path))
    run = _runner(manifest.target.backend, bundle.entry)
    golden = read_golden(bundle.path)
    outputs = np.concatenate([run(one[None]) for one in golden.inputs])
    verdict = judge(manifest, golden.outputs, outputs, golden.exact)
    if verdict.status != "passed":
        raise CheckFailed(
            f"{sub_model.name} computes something else on this machine: {verdict.reasons[0]}",
            where=str(bundle.path),
            cure="edgevit verify on it says more; another version of the runtime may help",
        )
    rule = manifest.preprocess.rule()
    return lambda pixels: run(as_input(pixels[None], rule, manifest.input))[0]


def _runner(backend: str, entry: Path) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Load a bundle's model into its runtime.

    Raises:
        EnvironmentIncomplete: its runtime is missing; on a 32-bit system it cannot be had.
    """
    try:
        return find_backend(backend).load(entry)
    except EnvironmentIncomplete as error:
        if sys.maxsize > 1 << 32:
            raise
        raise EnvironmentIncomplete(
            f"this is a 32-bit system, and the runtimes of {backend} files have no packages for it",
            where=error.message,
            cure="install a 64-bit system: on a Raspberry Pi 3, 4, 5 or Zero 2 W the 64-bit Raspberry Pi OS",
        ) from error


def decode(payload: bytes, encoding: Encoding, rule: Preprocessing) -> NDArray[np.uint8]:
    """Decode an image received over the network, at the model's size: [H, W, 3] uint8.

    Raises:
        Malformed: it cannot be decoded, or has another size.
    """
    height, width = rule.size
    if encoding == "raw":
        if len(payload) != height * width * 3:
            raise Malformed(f"{len(payload)} bytes are not {width}x{height} pixels")
        return np.frombuffer(payload, np.uint8).reshape(height, width, 3)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > MAX_MEGAPIXELS * 1e6:
                raise Malformed("the image is too large")
            rgb = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Malformed(f"not an image: {error}") from error
    return np.asarray(rgb) if rgb.size == (width, height) else to_model_size(rgb, rule)


@dataclass
class Counts:
    """What a member has counted since it started."""

    answered: int = 0
    busy: int = 0
    expired: int = 0
    refused: int = 0
    failed: int = 0


@dataclass
class _Work:
    query: Any
    arrived: float


@dataclass
class Serving:
    """A member that answers queries in an open session; made by `serve`.

    Attributes:
        session: of the engine.
        fleet: its name.
        member: its name.
        digest: of its bundles.
        rule: size and normalisation of images.
        compute: the sub-models.
        notice: called with one line about each event.
    """

    session: Any
    fleet: str
    member: str
    digest: bytes
    rule: Preprocessing
    compute: ComputeFeatures
    notice: Callable[[str], None] = lambda text: None
    counts: Counts = field(default_factory=Counts)
    started: float = field(default_factory=time.time)
    _jobs: queue.SimpleQueue[_Work | None] = field(default_factory=queue.SimpleQueue)
    _answered: queue.SimpleQueue[tuple[Any, float] | None] = field(default_factory=queue.SimpleQueue)
    _compute_s: float = 0.0
    _held: list[Any] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def open(self) -> None:
        """Start answering; returns at once."""
        import zenoh

        self._threads = [
            threading.Thread(target=work, name=f"{name}-{self.member}", daemon=True)
            for name, work in (("compute", self._work), ("follow", self._follow))
        ]
        for thread in self._threads:
            thread.start()
        infer, status = infer_key(self.fleet, self.member), status_key(self.fleet, self.member)
        callback = zenoh.handlers.Callback
        self._held = [
            self.session.declare_queryable(infer, callback(self._asked, indirect=False), complete=True),
            self.session.declare_queryable(status, callback(self._asked_status, indirect=False), complete=True),
            # never read: what counts is that the packet was sent
            self.session.declare_subscriber(nudge_key(self.fleet), zenoh.handlers.RingChannel(1)),
            self.session.liveliness().declare_token(alive_key(self.fleet, self.member, self.digest.hex())),
        ]

    def close(self) -> None:
        """Withdraw the token and stop after the current computation; waiting queries end unanswered."""
        for one in reversed(self._held):
            one.undeclare()
        self._held = []
        with suppress(queue.Empty):
            while (work := self._jobs.get_nowait()) is not None:
                work.query.drop()
        self._jobs.put(None)
        self._answered.put(None)
        # a thread that lets go of its query while the interpreter is taken down aborts the process
        for thread in self._threads:
            thread.join(CLOSE_S)
        self._threads = []

    def _asked(self, query: Any) -> None:
        """Enqueue a query; runs on the engine's thread."""
        if self._jobs.qsize() < QUEUE:
            self._jobs.put(_Work(query, time.perf_counter()))
            return
        self.counts.busy += 1
        with query:
            query.reply_err(BUSY)

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            query, lossy = work.query, False
            try:
                lossy = self._answer(query, work.arrived)
            except Malformed as error:
                self.counts.refused += 1
                self.notice(f"refused a request: {error}")
                query.reply_err(BAD_REQUEST)
            except Exception as error:  # whatever the runtime raises, the member stays up and says so
                self.counts.failed += 1
                self.notice(f"failed: {type(error).__name__}: {error}")
                query.reply_err(f"failed: {type(error).__name__}".encode())
            if lossy:
                self._answered.put((query, time.perf_counter()))
            else:
                query.drop()

    def _follow(self) -> None:
        """Send packets behind an answer, see `FOLLOW_S`: an empty reply, and later the query's end."""
        import zenoh

        first, last = FOLLOW_S
        while (one := self._answered.get()) is not None:
            query, answered_at = one
            time.sleep(max(0.0, answered_at + first - time.perf_counter()))
            if self._answered.empty():  # otherwise another answer followed already
                with suppress(zenoh.ZError):  # who asked is gone
                    query.reply(infer_key(self.fleet, self.member), b"", express=True)
                time.sleep(max(0.0, answered_at + last - time.perf_counter()))
            query.drop()

    def _answer(self, query: Any, arrived: float) -> bool:
        """Answer or refuse a query, and return whether packets should follow; the caller ends the query."""
        payload = bytes(query.payload) if query.payload is not None else b""
        attachment = bytes(query.attachment) if query.attachment is not None else b""
        request = read_request(attachment, payload)
        if request.member != self.digest:
            self.counts.refused += 1
            query.reply_err(OTHER_PLAN)
            return False
        start = time.perf_counter()
        if start - arrived > request.budget:
            self.counts.expired += 1
            query.reply_err(EXPIRED)
            return False
        features = self.compute(decode(payload, request.encoding, self.rule))
        self._compute_s = time.perf_counter() - start
        found = as_sent(features).tobytes()
        reply = Reply(request.number, self._compute_s, start - arrived, self.digest)
        self.counts.answered += 1
        query.reply(infer_key(self.fleet, self.member), found, attachment=reply.pack(found), express=True)
        return request.lossy

    def _asked_status(self, query: Any) -> None:
        with query:
            query.reply(status_key(self.fleet, self.member), json.dumps(self.status()).encode())

    def status(self) -> dict[str, Any]:
        """The status report as a dictionary for JSON."""
        return {
            "member": self.member,
            "edgevit": metadata.version("edgevit"),
            "bundles": self.digest.hex(),
            "up_s": round(time.time() - self.started, 1),
            "host": platform.node(),
            "pid": os.getpid(),
            "waiting": self._jobs.qsize(),
            "compute_ms": round(self._compute_s * 1e3, 3),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            **vars(self.counts),
        }


def serving(session: Any, fleet: str, plan: Plan, member: str, compute: ComputeFeatures, **further: Any) -> Serving:
    """A member of a plan in an open session that does not answer yet."""
    return Serving(session, fleet, member, member_digest(plan, member), plan.preprocess.rule(), compute, **further)
