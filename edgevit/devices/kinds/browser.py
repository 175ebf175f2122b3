"""``browser:``: any browser that opens the link, on a phone too.

Its figures are those of the browser, not of the phone's native runtime.

Loopback only, unless asked: a page on a local network over plain HTTP gets neither threads nor WebGPU, so there it is
HTTPS with a certificate of this computer's own. Safari and browsers on phones have not been tried by us; Chromium is
part of the tests, with threads, through HTTPS.
"""

from __future__ import annotations

import itertools
import queue
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevit.devices.base import Found, Kind, MeasurementJob, Reach, RunnerEvent, RunnerEvents, Turns
from edgevit.devices.runner_process import refusal, runner_file, turn_times
from edgevit.devices.runtimes.npm import packages, web_files
from edgevit.devices.web.certificate import self_signed
from edgevit.devices.web.page import PageServer
from edgevit.errors import DeviceFailed, DeviceUnreachable, EdgevitError, UsageError

_SILENT_S = 60.0
"""Seconds without a message after which the page counts as closed, or a quarter of the job's deadline if that is
longer."""
_LOOPBACK = "127.0.0.1"


def lan_address() -> str:
    """This computer's address on the local network, found without sending a packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError as error:
            raise UsageError("this computer is on no network", cure="leave out --lan") from error


def qr_code(url: str) -> str:
    """The link as a QR code in text, for a phone's camera; empty where segno is not installed."""
    try:
        import segno
    except ImportError:
        return ""
    import io

    out = io.StringIO()
    segno.make(url, error="l").terminal(out=out, compact=True)
    return out.getvalue()


class BrowserDevice:
    """One page in one browser.

    Attributes:
        uri: how it was named.
        kind: ``browser``.
        url: of the link.
    """

    kind = "browser"

    def __init__(self, uri: str, port: int, reach: Reach) -> None:
        self.uri, self._reach = uri, reach
        self._scratch = Path(tempfile.mkdtemp(prefix="edgevit-"))
        public = {name: runner_file("browser", name) for name in ("index.html", "runner.js")}
        try:
            address = lan_address() if reach.lan else _LOOPBACK
            names = [address, "localhost", _LOOPBACK]
            tls = self_signed([address, "localhost"], self._scratch) if reach.lan else None
            self._page = PageServer("0.0.0.0" if reach.lan else _LOOPBACK, port, frozenset(names), public, tls)
        except OSError as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            cure = "leave the port out, or take a free one above 1023: browser:8765"
            raise UsageError(f"port {port} cannot be listened on: {error.strerror}", cure=cure) from error
        except EdgevitError:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        scheme = "https" if reach.lan else "http"
        self.url = f"{scheme}://{address}:{self._page.port}/#t={self._page.token}"
        self._numbers = itertools.count(1)
        self._opened = False

    def _wait_for_page(self) -> None:
        if self._opened:
            return
        code = qr_code(self.url) if self._reach.lan else ""
        warning = "\nThe browser will warn of the certificate: it is this computer's own, made for now." if code else ""
        self._reach.ask(f"open this link once, in the browser to be measured:\n{self.url}\n{code}{warning}")
        if not self._page.claimed.wait(self._reach.wait_s):
            raise DeviceUnreachable(
                f"nobody opened the link within {self._reach.wait_s:.0f} s",
                cure="the phone must be on the same network; give it longer with --wait",
            )
        self._opened = True

    def _events(self, deadline_s: float, identity: int | None = None) -> Iterator[RunnerEvent]:
        """The page's events until it is done or has been silent for too long."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                event = self._page.events.get(timeout=1)
            except queue.Empty:
                if time.monotonic() > end:
                    raise DeviceFailed(
                        f"the page was not done within its limit of {deadline_s:.0f} s",
                        cure="give it longer with --deadline, or measure less: --seconds, --runs",
                    ) from None
                if time.monotonic() - self._page.heard > max(_SILENT_S, deadline_s / 4):
                    raise DeviceUnreachable(
                        "the page does not answer any more",
                        cure="keep it in front, with the screen on; then ask for a new link",
                    ) from None
                continue
            if event["event"] == "error":
                yield event
                raise refusal(event)
            if identity is None or event.get("id", identity) == identity:
                yield event
            if event["event"] == "done":
                return

    def probe(self) -> list[RunnerEvent]:
        """Events ``host`` and ``runtimes`` as the browser reports them."""
        self._wait_for_page()
        self._page.command(command="probe")
        events = list(self._events(_SILENT_S))
        versions = {runtime: found[0].version for runtime, found in packages().items()}
        return [*events, {"event": "runtimes", "versions": versions, "meter": ""}]

    def prepare(self, runtime: str) -> None:
        """Fetch the page's runtime before the user opens the link.

        Raises:
            DeviceFailed: it is not on this computer, and may not be fetched.
            EnvironmentIncomplete: it cannot be fetched.
        """
        self._page.public.update(web_files(runtime, install=self._reach.install_runtime, announce=self._reach.announce))

    def _job(self, job: MeasurementJob) -> dict[str, Any]:
        self.prepare(job.runtime)
        number = next(self._numbers)
        model, inputs = f"model-{number}", f"inputs-{number}"
        self._page.private |= {model: job.model, inputs: job.inputs}
        return {
            **job.settings,
            "runtime": job.runtime,
            "version": packages()[job.runtime][0].version,
            "model": model,
            "inputs": inputs,
            "accelerator": "webgpu" if self._reach.accelerator == "webgpu" else "cpu",
        }

    def profile(self, job: MeasurementJob) -> RunnerEvents:
        """Measure one model in a page of its own."""
        asked = self._job(job)
        self._wait_for_page()
        self._page.command(command="profile", job=asked)
        yield from self._events(job.deadline_s)

    def operators(self, job: MeasurementJob) -> RunnerEvents:
        """Refused: runtimes in browsers do not time their operators."""
        raise DeviceFailed(f"{job.runtime} does not time its operators")

    def turns(self, job: MeasurementJob) -> Turns:
        """A model that stays loaded in the page."""
        return _PageTurns(self, job, next(self._numbers))

    def clean(self) -> int:
        """Nothing to remove: a page leaves no files; 0 bytes."""
        return 0

    def close(self) -> None:
        """Tell the page to end, and stop the server."""
        if self._opened:
            self._page.command(command="bye")
            end = time.monotonic() + 3
            while time.monotonic() < end and not self._page.idle():
                time.sleep(0.05)
        self._page.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


class _PageTurns:
    def __init__(self, device: BrowserDevice, job: MeasurementJob, number: int) -> None:
        self._device, self._job, self._number = device, job, number

    def _until(self, name: str, limit_s: float) -> list[RunnerEvent]:
        events = []
        for event in self._device._events(limit_s, self._number):
            events.append(event)
            if event["event"] == name:
                break
        return events

    def start(self) -> list[RunnerEvent]:
        """Load the model in the page and warm up."""
        asked = self._device._job(self._job)
        self._device._wait_for_page()
        self._device._page.command(command="load", id=self._number, job=asked)
        return self._until("ready", self._job.deadline_s)

    def turn(self, runs: int) -> list[int]:
        """Run the model ``runs`` times; nanoseconds each."""
        self._device._page.command(command="turn", id=self._number, runs=runs)
        return turn_times(self._until("turn", self._job.deadline_s), runs)

    def end(self) -> list[RunnerEvent]:
        """Does nothing: the page keeps its models until it is closed."""
        return []


def open_browser(uri: str, reach: Reach) -> BrowserDevice:
    """Start the page's server; the link is shown when it is needed."""
    port = uri.removeprefix("browser:").strip("/")
    if port and not (port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"{uri!r} is not a device", cure="write browser: or browser:PORT")
    return BrowserDevice(uri, int(port or 0), reach)


def discover() -> list[Found]:
    """One entry that says how to use a browser; browsers cannot be discovered."""
    return [Found("browser:", "ready", "any browser that opens a link; --lan for a phone on this network")]


KIND = Kind("Any browser, by link or QR code", "browser:", open_browser, discover)
