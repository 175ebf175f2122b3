"""`edgevit fleet`: run a plan's members and ask them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli._skipped import Skipped
from edgevit.cli.console import (
    Json,
    Quiet,
    coloured,
    examples,
    json_text,
    literal,
    print_json,
    print_table,
    stderr,
    stdout,
    warn,
)
from edgevit.errors import DeviceUnreachable, UsageError

if TYPE_CHECKING:
    from edgevit.fleet.config import Security
    from edgevit.fleet.running import FleetOptions, RunningFleet


class FleetTransport(StrEnum):
    """The protocol of a connection that certificates secure."""

    QUIC = "quic"
    TLS = "tls"


class Wire(StrEnum):
    """How images are encoded between coordinator and members."""

    JPEG = "jpeg"
    PNG = "png"
    RAW = "raw"


class Method(StrEnum):
    """How features become classes."""

    FUSED = "fused"
    SCORES = "scores"


PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan's folder, from `edgevit split`.")]
FleetFile = Annotated[
    Path | None, typer.Option("--fleet", metavar="FILE", help="In place of the plan's own fleet.toml.")
]
ConnectOption = Annotated[
    str | None,
    typer.Option("--connect", metavar="HOST:PORT", help="The coordinator, where it is another than planned."),
]
CertsOption = Annotated[
    Path | None, typer.Option("--certs", metavar="DIR", help="Mutual TLS with this role's files of `fleet certs`.")
]
TransportOption = Annotated[
    FleetTransport, typer.Option("--transport", help="With --certs; TLS over TCP may not notice a partition.")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Plain connections beyond this machine: anyone on the network can listen.")
]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Run a plan's members, ask them, and see how they are.", no_args_is_help=True)
    group.command(
        epilog=examples("fleet serve plan --member pi-1 --certs certs", "fleet serve plan --member member-2")
    )(serve)
    group.command(
        epilog=examples("fleet run plan --local --input photos", "fleet run plan --input camera --certs certs --json")
    )(run)
    group.command(epilog=examples("fleet status plan", "fleet status plan --certs certs --json"))(status)
    group.command(epilog=examples("fleet certs plan", "fleet certs fleet.toml --out certs --days 90"))(certs)
    app.add_typer(group, name="fleet")


def _security(certs: Path | None, transport: FleetTransport, insecure: bool) -> Security:
    from edgevit.fleet.config import Security

    if certs is not None and transport == FleetTransport.TLS:
        warn("TLS over TCP may not notice that a member was cut off; QUIC does in 2 s")
    if insecure and certs is None:
        warn("nothing protects the connections: anyone on the network can listen and answer")
    return Security(certs, transport.value, insecure)


def _notice(quiet: bool) -> Callable[[str], None]:
    started = time.monotonic()
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            stderr().print(f"{time.monotonic() - started:7.1f} s  {text}", style="dim")

    return (lambda text: None) if quiet else say


def serve(
    plan: PlanArgument,
    member: Annotated[str, typer.Option("--member", "-m", metavar="NAME", help="Which member this device is.")],
    connect: ConnectOption = None,
    certs: CertsOption = None,
    transport: TransportOption = FleetTransport.QUIC,
    insecure: InsecureOption = False,
    fleet: FleetFile = None,
    quiet: Quiet = False,
) -> None:
    """Answer for one member's sub-models, until stopped. Needs no torch."""
    from edgevit.fleet.serve import serve as run_member

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_member(
        plan,
        member,
        address=connect,
        security=_security(certs, transport, insecure),
        fleet_file=fleet,
        stop=stop,
        notice=_notice(quiet),
    )


def run(
    plan: PlanArgument,
    input: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="DIR|FILE|camera|-",
            help="Pictures, a video, a camera; - for paths or MJPEG on stdin.",
        ),
    ],
    local: Annotated[bool, typer.Option("--local", help="The whole fleet in this process.")] = False,
    client: Annotated[bool, typer.Option("--client", help="Ask through a coordinator that already runs.")] = False,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where members dial, in place of the plan's.")
    ] = None,
    certs: CertsOption = None,
    transport: TransportOption = FleetTransport.QUIC,
    insecure: InsecureOption = False,
    fleet: FleetFile = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="MS", min=1, help="For one image; by default the fleet's.")
    ] = None,
    window: Annotated[int, typer.Option("--window", min=1, max=64, help="Images in the air at once.")] = 4,
    wire: Annotated[Wire, typer.Option("--wire", help="How images travel.")] = Wire.JPEG,
    method: Annotated[
        Method, typer.Option("--method", help="The trained head, or the members' own scores.")
    ] = Method.FUSED,
    wait: Annotated[
        float, typer.Option("--wait", metavar="S", help="For all members to come, before the first image.")
    ] = 10,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Classes to show.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many images.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON line an image, and one at the end.")] = False,
    quiet: Quiet = False,
) -> None:
    """Ask the members about each image, fuse what comes by the deadline, and say who answered.

    Images that cannot be read are named and left out; exit status 2 at the end.
    """
    from itertools import islice

    from edgevit.data.capture import is_live
    from edgevit.fleet.clients import answer_document
    from edgevit.fleet.frames import frames
    from edgevit.fleet.running import FleetOptions, RunningFleet

    if local and (client or listen):
        raise UsageError("--local has no network", cure="leave out --client and --listen")
    options = FleetOptions(
        role="local" if local else "coordinator",
        address=listen,
        deadline=deadline / 1e3 if deadline else None,
        window=window,
        shed=is_live(input),
        method=method.value,
        encoding="raw" if local else wire.value,
        security=_security(certs, transport, insecure),
        fleet=fleet,
    )
    if client:
        _run_client(plan, options, input, top, limit, json)
        return
    skipped = Skipped()
    with RunningFleet(plan, options, _notice(quiet)) as running:
        missing = running.gather(wait)
        if missing:
            warn(f"without {', '.join(missing)}")
            for why in running.absences().values():
                stderr().print(f"  {why}", style="dim", markup=False)
        started, times = time.monotonic(), []
        source = islice(frames(input, running.rule, options.encoding, skipped.add), limit)
        for frame, answer in running.stream(source):
            times.append(answer.latency)
            _say(answer_document(running, frame.name, answer, top), json)
        _summary(running, time.monotonic() - started, times, skipped, json, quiet)
    if not times:
        skipped.raise_only()
    if running.tally.none == running.tally.requests:
        raise DeviceUnreachable("no member answered", cure="edgevit fleet status PLAN says who is there")
    skipped.leave()


def _run_client(plan: Path, options: FleetOptions, source: str, top: int, limit: int | None, json: bool) -> None:
    """One image after the other, through a coordinator that runs already."""
    from itertools import islice

    from edgevit.fleet.clients import FleetClient
    from edgevit.fleet.config import check_address
    from edgevit.fleet.frames import frames
    from edgevit.fleet.running import read_fleet_of
    from edgevit.schema.plan import read_plan

    fleet, rule = read_fleet_of(plan, options.fleet), read_plan(plan).preprocess.rule()
    address = options.address or fleet.listen
    check_address(address, options.security)
    skipped = Skipped()
    with FleetClient(fleet, address, options.security, plan=options.fleet or plan) as client:
        for frame in islice(frames(source, rule, options.encoding, skipped.add), limit):
            document = client.ask(frame.payload, frame.encoding, fleet.deadline_ms / 1e3 + 5)
            _say({**document, "image": frame.name, "classes": document["classes"][:top]}, json)
    skipped.leave()


def _say(document: dict[str, Any], json: bool) -> None:
    if json:
        sys.stdout.write(json_text(document) + "\n")
        sys.stdout.flush()
        return
    best = ", ".join(f"{one['label']} {one['score']:.1%}" for one in document["classes"]) or "no answer"
    members = document["members"]
    silent = [f"{member} {outcome}" for member, outcome in members.items() if outcome != "answered"]
    who = f"{len(members) - len(silent)}/{len(members)}" + (f" ({', '.join(silent)})" if silent else "")
    stdout().print(f"{literal(document['image'])}  {literal(best)}  {who}  {document['latency_ms']:.1f} ms")


def _summary(
    running: RunningFleet, seconds: float, times: list[float], skipped: Skipped, json: bool, quiet: bool
) -> None:
    tally, ordered = running.tally, sorted(times)
    middle = ordered[len(ordered) // 2] * 1e3 if ordered else 0.0
    late = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3 if ordered else 0.0
    document = {
        **tally.document(),
        "seconds": round(seconds, 3),
        "p50_ms": round(middle, 3),
        "p99_ms": round(late, 3),
        "skipped": skipped.document(),
    }
    if json:
        sys.stdout.write(json_text({"summary": document}) + "\n")
    elif not quiet:
        stderr().print(
            f"{tally.requests} images in {seconds:.1f} s: {tally.complete} by all members, {tally.partial} by some, "
            f"{tally.none} by none, {tally.shed} shed; {middle:.1f} ms (p50), {late:.1f} ms (p99)",
            style="dim",
        )


def status(
    plan: PlanArgument,
    connect: ConnectOption = None,
    certs: CertsOption = None,
    transport: TransportOption = FleetTransport.QUIC,
    insecure: InsecureOption = False,
    fleet: FleetFile = None,
    wait: Annotated[float, typer.Option("--wait", metavar="S", help="For members to come.")] = 3,
    json: Json = False,
) -> None:
    """Show members, their bundles, latency and health. Exit status 3 unless all are healthy."""
    from dataclasses import asdict

    from edgevit.fleet.status import fleet_status

    found = fleet_status(
        plan,
        address=connect,
        security=_security(certs, transport, insecure),
        fleet_file=fleet,
        wait=wait,
        notice=lambda text: warn(text.removeprefix("warning: ")) if text.startswith("warning: ") else None,
    )
    if json:
        print_json({"plan": str(plan), "members": [asdict(one) for one in found]})
    else:
        colours = {"healthy": "green", "absent": "red", "another plan": "red", "suspect": "yellow"}
        print_table(
            [
                "member",
                "state",
                "edgevit",
                "round trip ms",
                "image ms",
                "compute ms",
                "answered",
                "waiting",
                "load",
                "up s",
            ],
            [
                [
                    one.member,
                    coloured(one.state, colours[one.state]),
                    str(one.said.get("edgevit", "")),
                    *("" if ms is None else f"{ms:.1f}" for ms in (one.round_trip_ms, one.latency_ms)),
                    *(str(one.said.get(key, "")) for key in ("compute_ms", "answered", "waiting", "load", "up_s")),
                ]
                for one in found
            ],
            right=("round trip ms", "image ms", "compute ms", "answered", "waiting", "load", "up s"),
        )
        for one in found:
            if one.why:
                stderr().print(one.why, markup=False)
    if any(one.state != "healthy" for one in found):
        raise typer.Exit(3)


def certs(
    plan: Annotated[Path, typer.Argument(metavar="PLAN|FILE", help="A plan's folder, or a fleet's file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the certificates.")] = Path(
        "certs"
    ),
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long they are valid.")] = 365,
    renew: Annotated[bool, typer.Option("--renew", help="Make all again, under the same authority.")] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="NAME|ADDRESS", help="Another one by which members dial the coordinator; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make an authority and a certificate for the coordinator, a client and each member; what is there stays."""
    from edgevit.fleet.certificates import make_certificates
    from edgevit.fleet.trust import certificate_host
    from edgevit.schema.plan import FLEET, read_fleet

    fleet = read_fleet(plan / FLEET if plan.is_dir() else plan)
    found = make_certificates(fleet, out, days=days, renew=renew, hosts=host or [])
    if json:
        document = [
            {
                "name": one.name,
                "path": str(one.path),
                "since": one.since.isoformat(),
                "until": one.until.isoformat(),
                "made": one.made,
                "note": one.note,
            }
            for one in found
        ]
        print_json({"folder": str(out), "certificates": document})
        return
    print_table(
        ["name", "valid from", "valid until", "file", ""],
        [
            [one.name, f"{one.since:%Y-%m-%d}", f"{one.until:%Y-%m-%d}", str(one.path), "made" if one.made else "kept"]
            for one in found
        ],
    )
    for one in found:
        if one.note:
            warn(one.note)
    if not certificate_host(fleet) and not host:
        warn(f"{fleet.listen} stands for all addresses: say with --host which one the members dial")
    stderr().print(
        f"give each member ca.pem, NAME.pem and NAME.key only; keep {out / 'ca.key'} off all devices",
        style="dim",
    )
