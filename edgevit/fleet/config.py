"""Zenoh configuration for each role; measured choices, see docs/fleet.md.

Members dial the coordinator, and only they dial. Requests are dropped rather than blocked, so that one frozen member
cannot hold the others; the queue is large enough that the window never fills it. Shared memory is off: its promotion
of payloads has lost queries. With certificates both sides check each other and what each name may do.
"""

from __future__ import annotations

import ipaddress
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevit.errors import MissingDependency, UsageError
from edgevit.fleet.trust import check_files
from edgevit.fleet.wire import client_key, nudge_key
from edgevit.schema.plan import Fleet

SecureTransport = Literal["quic", "tls"]
COORDINATOR, CLIENT = "coordinator", "client"
_RESERVED = (COORDINATOR, CLIENT, "ca")
_LEASE_MS, _KEEP_ALIVE = 2000, 4
"""Milliseconds of silence after which a link counts as broken, and keep-alive messages in that time."""
CLOSE_S = 3.0
"""Seconds to wait for a session to close in order; over a bad link zenoh takes longer."""
_RETRY = {"period_init_ms": 200, "period_max_ms": 400, "period_increase_factor": 1.5}
"""Milliseconds between attempts to dial: at first, at most, and the factor from one to the next."""
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}")
_OPEN_MS = 1000
"""An attempt that began while the link was down backs off for seconds; a fresh one gets through at once."""


@dataclass(frozen=True)
class Security:
    """How a connection is protected.

    Attributes:
        certs: folder from ``edgevit fleet certs``, None without any.
        transport: QUIC notices a partition in two seconds, TLS over TCP may not at all.
        insecure: whether plain connections may leave this machine.
    """

    certs: Path | None = None
    transport: SecureTransport = "quic"
    insecure: bool = False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(address: str, security: Security) -> None:
    """Refuse an invalid address, and an unprotected connection that leaves this machine unless it is allowed.

    Raises:
        UsageError: it is no address, or an unprotected connection would leave this machine.
    """
    if not _ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 1 << 16:
        raise UsageError(f"{address!r} is no address", cure="write HOST:PORT, e.g. 192.168.1.10:7447 or [::1]:7447")
    host = address.rpartition(":")[0]
    if security.certs is None and not security.insecure and not _is_loopback(host):
        raise UsageError(
            f"{address} is not on this machine, and nothing protects the connection",
            cure="edgevit fleet certs PLAN makes certificates for --certs; --insecure goes without",
        )


def check_names(fleet: Fleet) -> None:
    """Refuse members that are named like a role.

    Raises:
        UsageError: one is.
    """
    for member in fleet.member:
        if member.name in _RESERVED:
            raise UsageError(
                f"a member cannot be named {member.name!r}", cure="choose another name in the fleet's file"
            )


def _base(name: str, security: Security, protocol: str) -> dict[str, Any]:
    link: dict[str, Any] = {
        "protocols": [protocol],
        "tx": {
            "lease": _LEASE_MS,
            "keep_alive": _KEEP_ALIVE,
            "queue": {
                "size": {"data": 16},
                "congestion_control": {"drop": {"wait_before_drop": 20_000, "max_wait_before_drop_fragments": 50_000}},
            },
        },
    }
    if security.certs is not None:
        link["tls"] = _tls(name, security.certs)
    return {
        "mode": "peer",
        "scouting": {"multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "transport": {"unicast": {"open_timeout": _OPEN_MS}, "shared_memory": {"enabled": False}, "link": link},
    }


def _tls(name: str, folder: Path) -> dict[str, Any]:
    check_files(folder, name)
    files = {leaf: folder / leaf for leaf in ("ca.pem", f"{name}.pem", f"{name}.key")}
    own = {"certificate": str(files[f"{name}.pem"]), "private_key": str(files[f"{name}.key"])}
    return {
        "root_ca_certificate": str(files["ca.pem"]),
        "enable_mtls": True,
        "verify_name_on_connect": True,
        "close_link_on_expiration": True,
        **{f"{side}_{what}": path for side in ("listen", "connect") for what, path in own.items()},
    }


def _protocol(security: Security) -> str:
    return "tcp" if security.certs is None else security.transport


def over_quic(security: Security) -> bool:
    """Whether QUIC repairs packet losses, rather than the kernel's TCP."""
    return _protocol(security) == "quic"


def _connect(address: str, protocol: str, wait_ms: int) -> dict[str, Any]:
    return {
        "endpoints": [f"{protocol}/{address}"],
        "timeout_ms": wait_ms,
        "exit_on_failure": wait_ms >= 0,
        "retry": _RETRY,
    }


def member_config(fleet: Fleet, name: str, address: str, security: Security) -> dict[str, Any]:
    """Configuration of a member: dials the coordinator for ever, never listens, and takes queries from it only."""
    protocol = _protocol(security)
    config = {
        **_base(name, security, protocol),
        "listen": {"endpoints": []},
        "connect": _connect(address, protocol, -1),
    }
    if security.certs is not None:
        asked, alive = _keys(fleet, name), [f"edgevit/{fleet.name}/{name}/alive/*"]
        rules = [
            _rule("asked", ["ingress"], ["query"], asked),
            _rule("answers", ["egress"], ["reply", "declare_queryable"], asked),
            _rule("alive", ["egress"], ["liveliness_token"], alive),
            _rule("nudged", ["ingress"], ["put"], [nudge_key(fleet.name)]),
            _rule("nudgeable", ["egress"], ["declare_subscriber"], [nudge_key(fleet.name)]),
            _rule("watched", ["ingress"], ["declare_liveliness_subscriber", "liveliness_query"], _alive(fleet)),
        ]
        config["access_control"] = _access(rules, {COORDINATOR: [rule["id"] for rule in rules]})
    return config


def coordinator_config(fleet: Fleet, address: str, security: Security) -> dict[str, Any]:
    """Configuration of the coordinator: listens; members answer for their own sub-models, clients only ask."""
    protocol = _protocol(security)
    config = {
        **_base(COORDINATOR, security, protocol),
        "mode": "peer",
        "listen": {"endpoints": [f"{protocol}/{address}"], "timeout_ms": 0, "exit_on_failure": True},
        "connect": {"endpoints": []},
    }
    if security.certs is not None:
        watch = ["declare_liveliness_subscriber", "liveliness_query"]
        client_keys = [client_key(fleet.name, what) for what in ("status", "infer")]
        rules = [
            _rule("watch", ["egress"], watch, _alive(fleet)),
            _rule("nudge", ["egress"], ["put"], [nudge_key(fleet.name)]),
            _rule("nudgeable", ["ingress"], ["declare_subscriber"], [nudge_key(fleet.name)]),
            _rule("client-asks", ["ingress"], ["query"], client_keys),
            _rule("client-hears", ["egress"], ["reply", "declare_queryable"], client_keys),
        ]
        subjects = {CLIENT: ["client-asks", "client-hears"]}
        for member in fleet.member:
            name, keys = member.name, _keys(fleet, member.name)
            rules += [
                _rule(f"ask-{name}", ["egress"], ["query"], keys),
                _rule(f"hear-{name}", ["ingress"], ["reply", "declare_queryable"], keys),
                _rule(f"see-{name}", ["ingress"], ["liveliness_token"], [f"edgevit/{fleet.name}/{name}/alive/*"]),
            ]
            subjects[name] = [f"ask-{name}", f"hear-{name}", f"see-{name}", "watch", "nudge", "nudgeable"]
        config["access_control"] = _access(rules, subjects)
    return config


def client_config(address: str, security: Security) -> dict[str, Any]:
    """Configuration of a client of a running coordinator."""
    protocol = _protocol(security)
    return {
        **_base(CLIENT, security, protocol),
        "mode": "client",
        "listen": {"endpoints": []},
        "connect": _connect(address, protocol, 2000),
    }


def local_config() -> dict[str, Any]:
    """Configuration of the whole fleet in one process, without sockets."""
    return {**_base("local", Security(), "tcp"), "listen": {"endpoints": []}, "connect": {"endpoints": []}}


def _keys(fleet: Fleet, member: str) -> list[str]:
    return [f"edgevit/{fleet.name}/{member}/{leaf}" for leaf in ("infer", "status")]


def _alive(fleet: Fleet) -> list[str]:
    return [f"edgevit/{fleet.name}/*/alive/*"]


def _rule(name: str, flows: list[str], messages: list[str], keys: list[str]) -> dict[str, Any]:
    return {"id": name, "permission": "allow", "flows": flows, "messages": messages, "key_exprs": keys}


def _access(rules: list[dict[str, Any]], subjects: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": [{"id": name, "cert_common_names": [name]} for name in subjects],
        "policies": [{"rules": allowed, "subjects": [name]} for name, allowed in subjects.items()],
    }


def leave(*calls: Callable[[], None]) -> None:
    """Close a session in order, waiting a limited time: over a bad link the engine may take seconds."""

    def say() -> None:
        for call in calls:
            call()

    goodbye = threading.Thread(target=say, name="goodbye", daemon=True)
    goodbye.start()
    goodbye.join(CLOSE_S)


def import_zenoh() -> Any:
    """Import zenoh, or say which extra installs it.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import zenoh
    except ImportError as error:
        raise MissingDependency("eclipse-zenoh", "a fleet", extra="fleet") from error
    return zenoh


def open_session(config: dict[str, Any], what: str) -> Any:
    """Open a zenoh session.

    Args:
        config: from this module.
        what: for the error, e.g. ``listening on 10.0.0.1:7447``.

    Raises:
        MissingDependency: the engine is not installed.
        UsageError: the address cannot be used.
    """
    zenoh = import_zenoh()
    zenoh.init_log_from_env_or("off")
    try:
        return zenoh.open(zenoh.Config.from_json5(json.dumps(config)))
    except zenoh.ZError as error:
        reason = plain_reason(str(error))
        raise UsageError(f"{what} failed", where=reason, cure=_listening_cure(reason)) from error


def plain_reason(text: str) -> str:
    """The engine's error message without the places in its own source."""
    return re.sub(r"\s+at /\S+\.rs:\d+\.*", "", text).strip()[:300]


def _listening_cure(reason: str) -> str:
    if re.search("in use", reason, re.IGNORECASE):
        return "another program listens there, a coordinator perhaps: edgevit fleet status PLAN asks it; or --listen"
    if re.search("cannot assign|not available|lookup", reason, re.IGNORECASE):
        return "--listen takes an address of this machine, as `hostname -I` shows them, or 0.0.0.0:PORT for all"
    if re.search("permission", reason, re.IGNORECASE):
        return "take a port above 1023: --listen HOST:PORT"
    return "another address? another program on that port?"
