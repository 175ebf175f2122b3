"""A running fleet: the coordinator on an event loop of its own, for synchronous programs."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgevit.bundle.loaded import Prediction
from edgevit.core.fusion import read_head
from edgevit.data.pixels import as_picture
from edgevit.errors import DeviceUnreachable
from edgevit.fleet.clients import ClientEndpoint
from edgevit.fleet.config import (
    CLOSE_S,
    COORDINATOR,
    Security,
    check_address,
    check_names,
    coordinator_config,
    leave,
    local_config,
    open_session,
    over_quic,
)
from edgevit.fleet.coordinator import WINDOW, Coordinator
from edgevit.fleet.frames import Frame, encode
from edgevit.fleet.health import Health, MemberState
from edgevit.fleet.member import Serving, load_compute, serving
from edgevit.fleet.outcomes import Answer, Tally
from edgevit.fleet.trust import Credentials, check_role, clock, not_covered, why_refused
from edgevit.fleet.wire import Encoding
from edgevit.schema.plan import FLEET, FUSION, Fleet, Plan, read_fleet, read_plan

FleetRole = Literal["coordinator", "local"]
T = TypeVar("T")
_LOOK_S = 60.0
"""A clock may be set while a fleet runs: how long it takes at most to be seen."""


@dataclass(frozen=True)
class FleetOptions:
    """How a fleet is reached and queried.

    Attributes:
        role: ``coordinator`` listens for the members; ``local`` is the whole fleet in this process.
        address: HOST:PORT, None for the fleet's file's.
        deadline: seconds for one image, None for the fleet's file's.
        window: number of images in progress at once.
        shed: refuse images that could not be answered in time.
        method: ``fused`` by the trained head, or by the members' own ``scores``.
        encoding: how images are encoded for sending.
        security: certificates, transport, or neither.
        fleet: path of a fleet file, None for the plan's own.
    """

    role: FleetRole = "coordinator"
    address: str | None = None
    deadline: float | None = None
    window: int = WINDOW
    shed: bool = False
    method: Literal["fused", "scores"] = "fused"
    encoding: Encoding = "jpeg"
    security: Security = field(default_factory=Security)
    fleet: Path | None = None


def read_fleet_of(folder: Path, other: Path | None) -> Fleet:
    """The fleet file of a plan, or another one."""
    fleet = read_fleet(other or folder / FLEET)
    check_names(fleet)
    return fleet


class RunningFleet:
    """A plan's fleet, ready for images; use it as a context manager.

    Attributes:
        plan: the plan that runs.
        fleet: members and addresses.
        options: how.
        rule: how a picture becomes a member's input.
        session: of the engine.
        coordinator: on the fleet's event loop, for `call`.
    """

    def __init__(self, folder: Path, options: FleetOptions, notice: Callable[[str], None] = lambda text: None) -> None:
        """Open the session; members may come later.

        Raises:
            BadFile: no plan, or no fleet's file.
            CheckFailed: the plan's files were changed.
            BadFile: a certificate that members would not accept.
            UsageError: the address cannot be used, or would be reached without protection.
            MissingDependency: the engine is not installed.
        """
        self.plan, self.options, self._notice = read_plan(folder), options, notice
        self.fleet = read_fleet_of(folder, options.fleet)
        self.rule = self.plan.preprocess.rule()
        self._head = read_head(folder / FUSION, [one.classes for one in self.plan.sub_models])
        self._trusted = _trusted(options, options.fleet or folder)
        self.session = _open(self.fleet, self.address, options)
        self._say_of_certificates()
        self._members = [_local_member(self.session, folder, self.fleet, self.plan, name) for name in self._local()]
        for member in self._members:
            member.open()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)
        self._thread.start()
        self.coordinator = self.call(self._start())
        if self._trusted is not None:
            self._submit(self._watch_certificates(self._trusted))
        self._endpoint = ClientEndpoint(self) if options.role == "coordinator" else None

    def _local(self) -> tuple[str, ...]:
        return self.plan.members() if self.options.role == "local" else ()

    @property
    def address(self) -> str:
        """HOST:PORT that members dial."""
        return self.options.address or self.fleet.listen

    def _say_of_certificates(self) -> None:
        if self._trusted is None:
            return
        for text in (self._trusted.warning(), not_covered(self._trusted.path.parent, self.address)):
            if text:
                self._notice(f"warning: {text}")

    async def _watch_certificates(self, trusted: Credentials) -> None:
        """Say when the coordinator's certificate ends while it runs: members are no longer connected then."""
        while not trusted.ended():
            left = (trusted.ends - clock()).total_seconds()
            await asyncio.sleep(max(0.0, min(left, _LOOK_S)))
        self._notice(f"warning: {trusted.warning()}; then start again")

    async def _start(self) -> Coordinator:
        return Coordinator(
            self.session,
            self.fleet.name,
            self.plan,
            self._head,
            window=self.options.window,
            method=self.options.method,
            quic=over_quic(self.options.security),
            notice=self._notice,
        )

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the fleet's event loop and wait for it."""
        return self._submit(coroutine).result()

    @property
    def deadline(self) -> float:
        """Seconds that one image may take."""
        return self.options.deadline or self.fleet.deadline_ms / 1e3

    @property
    def health(self) -> dict[str, Health]:
        """The record of each member, updated with every request."""
        return self.coordinator.health

    @property
    def tally(self) -> Tally:
        """Counts of all images so far."""
        return self.coordinator.tally

    def wait_for(self, members: int, timeout: float) -> bool:
        """Wait until ``members`` members are present; False where the time is over first."""
        return self.call(self.coordinator.wait_for(members, timeout))

    def gather(self, seconds: float) -> list[str]:
        """Wait for all members; returns the names of those that did not come.

        Raises:
            DeviceUnreachable: none came.
        """
        self.wait_for(len(self.health), seconds)
        missing = [name for name, one in self.health.items() if one.state != "healthy"]
        if len(missing) == len(self.health):
            raise DeviceUnreachable(
                f"no member came within {seconds:g} s",
                where="\n".join((f"waited at {self.address}", *self.absences().values())),
                cure=f"edgevit fleet serve PLAN --member {missing[0]} on its device; what it prints says why it cannot "
                "connect",
            )
        return missing

    def absences(self) -> dict[str, str]:
        """For each member that is not healthy, one line with the reason, as far as it can be known here."""
        linked = {link.auth_identifier for link in self.session.info.links()}
        certs = self.options.security.certs
        found = {}
        for name, one in self.health.items():
            if one.state != "healthy":
                found[name] = f"{name}: {_absence_reason(name, one.state, name in linked, certs)}"
        return found

    def ask(self, frame: Frame) -> Future[Answer]:
        """Submit one image; the future ends by the deadline.

        Where the window is full, the call waits first.
        """
        return self._submit(
            self.coordinator.infer(frame.payload, frame.encoding, self.deadline, shed=self.options.shed)
        )

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Answer]]:
        """Submit many images, several at once; answers come in the images' order."""
        flying: deque[tuple[Frame, Future[Answer]]] = deque()
        for frame in frames:
            flying.append((frame, self.ask(frame)))
            while len(flying) > 2 * self.options.window or (flying and flying[0][1].done()):
                first, answer = flying.popleft()
                yield first, answer.result()
        for first, answer in flying:
            yield first, answer.result()

    def predict(self, picture: Any, top: int = 5) -> list[Prediction]:
        """The most likely classes of a picture, best first; none where no member answered.

        Args:
            picture: as for `edgevit.bundle.loaded.Deployed.predict`.
            top: how many.

        Raises:
            BadFile: the picture cannot be read.
        """
        opened = as_picture(picture)
        encoding = self.options.encoding
        return self.best(self.ask(Frame("", encode(opened, self.rule, encoding), encoding)).result(), top)

    def best(self, answer: Answer, top: int = 5) -> list[Prediction]:
        """The most likely classes of an answer."""
        if answer.shares is None:
            return []
        order = (-answer.shares).argsort(kind="stable")[:top]
        return [Prediction(int(i), self.plan.labels[int(i)], float(answer.shares[i])) for i in order]

    def close(self) -> None:
        """Leave the fleet; futures of images in progress are cancelled."""
        if self._loop.is_closed():
            return
        if self._endpoint is not None:
            self._endpoint.close()
        self.call(_cancel_others())
        self.call(self.coordinator.close())
        for member in self._members:
            member.close()
        leave(self.session.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()

    def __enter__(self) -> RunningFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _absence_reason(name: str, state: MemberState, linked: bool, certs: Path | None) -> str:
    """The reason why a member is absent, in one line."""
    if state == "another plan":
        return "is there with bundles of another plan: copy the plan's folder to its device again"
    if state == "suspect":
        return "is connected and does not answer in time"
    if linked:
        return "is connected, and has not said yet that it can answer"
    refused = why_refused(certs, name) if certs is not None else ""
    if refused:
        return f"cannot connect with its certificate: {refused}"
    secured = ", or its certificate or its clock is not accepted" if certs is not None else ""
    return f"is not connected: not started, no way through the network{secured}"


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _trusted(options: FleetOptions, plan: Path) -> Credentials | None:
    if options.role == "local" or options.security.certs is None:
        return None
    return check_role(options.security.certs, COORDINATOR, plan=plan)


def _open(fleet: Fleet, address: str, options: FleetOptions) -> Any:
    if options.role == "local":
        return open_session(local_config(), "opening a session")
    check_address(address, options.security)
    return open_session(coordinator_config(fleet, address, options.security), f"listening on {address}")


def _local_member(session: Any, folder: Path, fleet: Fleet, plan: Plan, name: str) -> Serving:
    return serving(session, fleet.name, plan, name, load_compute(folder, plan, name))


def open_fleet(folder: Path | str, options: FleetOptions | None = None, wait: float = 10.0) -> RunningFleet:
    """Open a plan's fleet and wait for its members.

    Args:
        folder: the plan's.
        options: by default the whole fleet in this process.
        wait: seconds for the members to come.

    Raises:
        DeviceUnreachable: no member came.
        EdgevitError: as for `RunningFleet`.
    """
    running = RunningFleet(Path(folder), options or FleetOptions(role="local", encoding="raw"))
    try:
        running.gather(wait)
    except DeviceUnreachable:
        running.close()
        raise
    return running
