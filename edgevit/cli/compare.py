"""`edgevit compare`: two bundles in turns on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli._measuring import (
    Accelerator,
    AcceleratorOption,
    CpusOption,
    DeadlineOption,
    InstallOption,
    LanOption,
    NoisyOption,
    SSHConfigOption,
    ThreadsOption,
    WaitOption,
    WarmupOption,
    connected,
    parse_cpus,
    reach_options,
    watching,
)
from edgevit.cli.console import Json, Quiet, examples, print_json, stderr, stdout


def register(app: typer.Typer) -> None:
    """Add the command ``compare`` to the command line."""
    app.command(
        epilog=examples(
            "compare build/shvit_digits/litert-fp32 build/shvit_digits/litert-int8 -d ssh://pi@raspberrypi.local",
            "compare build/tinyvit_digits/onnx-fp32 build/tinyvit_digits/executorch-fp32 --threads 1",
        )
    )(compare)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A bundle folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another; the ratio says how many times as long it takes.")],
    device: Annotated[str, typer.Option("--device", "-d", metavar="URI", help="Where.")] = "local:",
    threads: ThreadsOption = None,
    cpus: CpusOption = "",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="For each of the two, about.")] = 10.0,
    warmup: WarmupOption = 30.0,
    seed: Annotated[int, typer.Option(help="Of the order within pairs.")] = 0,
    deadline: DeadlineOption = None,
    install_runtime: InstallOption = False,
    ssh_config: SSHConfigOption = None,
    accelerator: AcceleratorOption = Accelerator.CPU,
    lan: LanOption = False,
    wait: WaitOption = 600.0,
    allow_noisy: NoisyOption = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which of two bundles is faster, and by how much, from pairs measured in turns.

    Each is loaded in a process of its own; in every pair they run one after the other, in random order. The
    ratio comes with its interval: where that holds 1, no difference was found. Exit status as for profile.
    """
    from edgevit.bundle.read import read_bundle
    from edgevit.devices.base import place_name
    from edgevit.profiling.compare import compare as run_compare
    from edgevit.profiling.contract import Settings

    settings = Settings(
        threads=threads, cpus=parse_cpus(cpus), seconds=seconds, warmup_limit_s=warmup, deadline_s=deadline
    )
    first, second = read_bundle(a), read_bundle(b)
    reach = reach_options(install_runtime, ssh_config, accelerator, lan, wait, quiet)
    with connected(device, reach) as opened, watching("comparing", quiet or json) as listen:
        found = run_compare(first, second, opened, settings, seed=seed, listen=listen)
    if json:
        print_json({"comparison": found.to_dict()})
    else:
        name_a, name_b = (f"{one.model} {one.bundle}" for one in (found.a, found.b))
        where = f"emulated {found.device.machine}, no device" if found.emulated else place_name(found.device.uri)
        faster, slower = (name_a, name_b) if found.ratio > 1 else (name_b, name_a)
        times = found.ratio if found.ratio > 1 else 1 / found.ratio
        verdict = f"{faster} is {times:.3g} times as fast as {slower}" if found.different else "no difference was found"
        stdout().print(f"A  {name_a}: {found.a_ms:.4g} ms", markup=False)
        stdout().print(f"B  {name_b}: {found.b_ms:.4g} ms", markup=False)
        stdout().print(
            f"B takes {found.ratio:.4f} times as long as A [{found.low:.4f}, {found.high:.4f}], {found.pairs} pairs "
            f"on {where}: {verdict}",
            markup=False,
        )
        for reason in found.reasons:
            stderr().print(f"{found.status}: {reason}", markup=False)
    if found.status == "wrong" or (found.status == "unstable" and not allow_noisy):
        raise typer.Exit(3)
