"""Watches whether a session is connected, and finds out why it is not.

The engine dials for ever without a word. Why it fails is in its log only, which goes to the standard output of a
process and can be set up once in its life: so the question is asked by a process of its own, which dials once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgevit.fleet.config import plain_reason

_ONCE_MS, _ASK_S = 1500, 15.0
"""Milliseconds for the one attempt to dial, and seconds for the process that makes it."""
_LOG = "zenoh::net::runtime::orchestrator=debug"
_DIAL = (
    "import sys, zenoh; zenoh.init_log_from_env_or('off'); "
    "zenoh.open(zenoh.Config.from_json5(sys.stdin.read())).close(); print('connected')"
)
_REASONS: tuple[tuple[str, str], ...] = (
    (
        "certificate expired",
        "the coordinator's certificate has ended, or this machine's clock is wrong: look at `date` here, and renew it "
        "there with edgevit fleet certs PLAN --renew",
    ),
    (
        "not valid yet",
        "the coordinator's certificate is not valid yet by this machine's clock: look at `date` here and there",
    ),
    (
        "not valid for name",
        "the coordinator's certificate is for other names than {host}: where ca.key is, edgevit fleet certs PLAN "
        "--host {host}, then start the coordinator again",
    ),
    (
        "BadSignature|UnknownIssuer",
        "what answers there has a certificate of another authority than ca.pem here: another fleet, or certificates "
        "that were made at another time",
    ),
    (
        "connection lost|early eof|alert|closed|reset",
        "the coordinator ended the connection at once: it does not accept this certificate (another authority or "
        "clock there), one of the two has --certs and the other has not, or it is another program",
    ),
    (
        "lookup address|Name or service",
        "there is no host {host} for this machine: try its address, --connect HOST:PORT",
    ),
    ("Connection refused", "nothing listens there: is the coordinator, edgevit fleet run, running?"),
    ("unreachable", "there is no way to {host} from this machine's network"),
)
_SILENT = (
    "nothing answers there: is the coordinator, edgevit fleet run, running, with the same --transport and --certs, and "
    "does a firewall let {kind} port {port} through?"
)


def why_not_connected(config: dict[str, Any]) -> str:
    """Dial once, in a process of its own, and say in one line why that fails; empty where it works.

    Args:
        config: of a member or a client, with one endpoint to connect to.
    """
    endpoint = str(config["connect"]["endpoints"][0])
    once = {**config, "connect": {**config["connect"], "timeout_ms": _ONCE_MS, "exit_on_failure": True}}
    env = {**os.environ, "RUST_LOG": _LOG, "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DIAL],
            input=json.dumps(once),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return reason("", endpoint)
    return "" if "connected" in done.stdout.splitlines() else reason(done.stdout + done.stderr, endpoint)


def reason(log: str, endpoint: str) -> str:
    """The meaning of the engine's log of failed attempts, in one line.

    Args:
        log: with lines of the engine's orchestrator.
        endpoint: as dialled, e.g. ``quic/10.0.0.1:7447``.
    """
    protocol, _, address = endpoint.partition("/")
    host, _, port = address.rpartition(":")
    words = {"host": host.strip("[]"), "port": port, "kind": "UDP" if protocol == "quic" else "TCP"}
    attempts = re.findall(r"Unable to connect to configured peer \S+! (.*)", log)
    attempt = next((one for one in attempts if "deadline has elapsed" not in one), "")
    for pattern, meaning in _REASONS:
        if re.search(pattern, attempt, re.IGNORECASE):
            return meaning.format(**words)
    if attempt:
        return plain_reason(attempt).partition(". Retry in")[0]
    return _SILENT.format(**words)


@dataclass
class Connection:
    """Watches a session that dials: reports connection, loss, and after a while the reason of failure.

    Attributes:
        session: of the engine.
        address: that it dials.
        config: of the session, to find out why it is not connected.
        ready: what to say first when it is connected.
        notice: called with one line about each event.
    """

    session: Any
    address: str
    config: dict[str, Any]
    ready: str
    notice: Callable[[str], None]
    _links: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _since: float = 0.0
    _asks: int = 0
    _asking: threading.Thread | None = None
    _listener: Any = None

    def open(self, now: float) -> None:
        """Start watching; `look` must then be called regularly."""
        import zenoh

        def seen(event: Any) -> None:
            self._changed(str(event.transport.zid), event.kind == zenoh.SampleKind.PUT)

        self._since = now
        callback = zenoh.handlers.Callback(seen, indirect=False)
        self._listener = self.session.info.declare_transport_events_listener(callback, history=True)
        if not self.connected:
            self.notice(f"not connected yet: dialling the coordinator at {self.address}")

    def close(self) -> None:
        """Stop watching the session."""
        if self._listener is not None:
            self._listener.undeclare()
            self._listener = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the coordinator now."""
        return bool(self._links)

    def _changed(self, peer: str, there: bool) -> None:
        with self._lock:
            before = self.connected
            self._links.add(peer) if there else self._links.discard(peer)
            after = self.connected
        if after and not before:
            self.notice(f"{self.ready}, connected to the coordinator at {self.address}")
        elif before and not after:
            self.notice(f"the connection to the coordinator at {self.address} is lost; dialling again")

    def look(self, now: float) -> None:
        """Where there has been no connection for a while, find out why and say it: after 5 s, then ever more seldom."""
        if self.connected:
            self._since, self._asks = now, 0
            return
        due = self._since + _PATIENCE_S[min(self._asks, len(_PATIENCE_S) - 1)]
        if now < due or (self._asking is not None and self._asking.is_alive()):
            return
        self._since, self._asks = now, self._asks + 1
        self._asking = threading.Thread(target=self._ask, name="why-not-connected", daemon=True)
        self._asking.start()

    def _ask(self) -> None:
        why = why_not_connected(self.config)
        if why and not self.connected:
            self.notice(f"not connected to the coordinator at {self.address}: {why}")


_PATIENCE_S = (5.0, 30.0, 120.0, 600.0)
"""Seconds without a connection before the reason is looked for, the first time, the second, and so on."""
