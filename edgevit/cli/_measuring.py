"""Shared by `profile`, `compare` and `devices`: options, the connection, and progress while a runner works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli.console import literal, stderr
from edgevit.errors import UsageError

if TYPE_CHECKING:
    from edgevit.devices.base import ConnectedDevice, Reach, RunnerEvent


class Accelerator(StrEnum):
    """What a browser computes on."""

    CPU = "cpu"
    WEBGPU = "webgpu"


ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Of the runtime. [default: the device's cores, at most 4]")
]
CpusOption = Annotated[
    str, typer.Option("--cpus", metavar="LIST", help="Run on these processors only, e.g. 4-7 or 0,1.")
]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.1, help="Measure at most so long.")]
WarmupOption = Annotated[
    float, typer.Option("--warmup", min=0.1, help="Warm up at most so long; a figure is unstable if it was too short.")
]
RunsOption = Annotated[int, typer.Option("--runs", min=1, help="Measure so many runs, unless the time is over.")]
DeadlineOption = Annotated[
    float | None, typer.Option("--deadline", min=1, help="Seconds after which the device itself gives up.")
]
InstallOption = Annotated[
    bool, typer.Option("--install-runtime", help="Put the runtime into edgevit's own folder on the device.")
]
SSHConfigOption = Annotated[
    Path | None, typer.Option("--ssh-config", metavar="FILE", help="As for ssh -F.", exists=True, dir_okay=False)
]
AcceleratorOption = Annotated[Accelerator, typer.Option("--accelerator", help="For browsers.")]
LanOption = Annotated[
    bool, typer.Option("--lan", help="For browsers: also reachable from this network, over HTTPS with a token.")
]
WaitOption = Annotated[
    float, typer.Option("--wait", min=1, help="For browsers: seconds to wait for somebody to open the page.")
]
NoisyOption = Annotated[bool, typer.Option("--allow-noisy", help="Exit 0 even if a figure is unstable.")]


def parse_cpus(text: str) -> tuple[int, ...]:
    """Processor numbers: ``0,2`` or ``4-7``.

    Raises:
        UsageError: it is neither.
    """
    found: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a list of processors", cure="write 0,2 or 4-7") from error
    return tuple(sorted(set(found)))


def reach_options(
    install: bool, ssh_config: Path | None, accelerator: Accelerator, lan: bool, wait: float, quiet: bool
) -> Reach:
    """The options of the command line as a `Reach`."""
    from edgevit.devices.base import Reach

    def say(text: str) -> None:
        stderr().print(text)

    return Reach(
        install_runtime=install,
        ssh_config=ssh_config,
        accelerator=accelerator.value,
        lan=lan,
        wait_s=wait,
        announce=(lambda text: None) if quiet else say,
        ask=say,
    )


@contextmanager
def connected(uri: str, reach: Reach) -> Iterator[ConnectedDevice]:
    """Context manager: a connected device, closed at the end."""
    from edgevit.devices.base import open_device

    device = open_device(uri, reach)
    try:
        yield device
    finally:
        device.close()


_SAID = {
    "host": "connected",
    "loaded": "loaded, answering the golden inputs",
    "outputs": "warming up",
    "warmup": "measuring",
    "memory": "measured",
    "energy": "measured energy",
    "operators": "timed operators",
}


@contextmanager
def watching(title: str, quiet: bool) -> Iterator[Callable[[RunnerEvent], None]]:
    """Context manager: a listener that shows a runner's progress, live on a terminal, as a few lines elsewhere."""
    console = stderr()
    if quiet:
        yield lambda event: None
    elif not console.is_terminal:

        def say(event: RunnerEvent) -> None:
            if event["event"] in ("loaded", "warmup", "memory", "operators"):
                console.print(f"{title}: {_SAID[event['event']]}")

        yield say
    else:
        yield from _live(title)


def _live(title: str) -> Iterator[Callable[[RunnerEvent], None]]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[status]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as progress:
        task, runs = progress.add_task(literal(title), total=None, status="connecting"), [0]

        def show(event: RunnerEvent) -> None:
            progress.update(task, status=_progress_text(event, runs))

        yield show


def _progress_text(event: dict[str, Any], runs: list[int]) -> str:
    name = event["event"]
    if name in ("runs", "sustained"):
        runs[0] += len(event["ns"])
        last = sorted(event["ns"])[len(event["ns"]) // 2] / 1e6
        doing = "measuring" if name == "runs" else "running without a pause"
        return f"{doing}: {runs[0]} runs, {event['at_s']:.0f} s, {last:.3g} ms"
    if name == "pair":
        return f"pair {event['number']} of {event['pairs']}"
    return _SAID.get(name, "")
