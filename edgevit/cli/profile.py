"""`edgevit profile`: latency on a device, by the noise contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli._measuring import (
    Accelerator,
    AcceleratorOption,
    CpusOption,
    DeadlineOption,
    InstallOption,
    LanOption,
    NoisyOption,
    RunsOption,
    SecondsOption,
    SSHConfigOption,
    ThreadsOption,
    WaitOption,
    WarmupOption,
    connected,
    parse_cpus,
    reach_options,
    watching,
)
from edgevit.cli._skipped import Skipped
from edgevit.cli.console import (
    SCHEMA_VERSION,
    Json,
    Quiet,
    error_document,
    examples,
    print_error,
    print_json,
    print_table,
    stderr,
)
from edgevit.errors import EdgevitError, UsageError

if TYPE_CHECKING:
    from edgevit.bundle.read import Bundle
    from edgevit.devices.base import Reach
    from edgevit.profiling.contract import Settings
    from edgevit.schema.profile import Profile

_WRITERS = (".html", ".md", ".json")


def register(app: typer.Typer) -> None:
    """Add the command ``profile`` to the command line."""
    app.command(
        epilog=examples(
            "profile build/tinyvit_digits/litert-fp32 -d ssh://pi@raspberrypi.local --install-runtime",
            "profile build/tiny_vit_5m_224/*-fp32 --per-op --sustained 5 --report profile.html",
        )
    )(profile)


def profile(
    bundle: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle folders.")],
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", "-d", metavar="URI", help="Where; repeatable; see `edgevit devices`. [default: local:]"
        ),
    ] = None,
    threads: ThreadsOption = None,
    cpus: CpusOption = "",
    runs: RunsOption = 200,
    seconds: SecondsOption = 10.0,
    warmup: WarmupOption = 30.0,
    per_op: Annotated[bool, typer.Option("--per-op", help="Time every operator too.")] = False,
    sustained: Annotated[
        float,
        typer.Option("--sustained", metavar="MIN", min=0, help="Then run on without a pause for so many minutes."),
    ] = 0.0,
    evaluate: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Also measure accuracy, here, for the accuracy-latency chart.")
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Write a page or table: .html, .md or .json; repeatable.")
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append to a file of results; only what is stable and a device's."),
    ] = None,
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
    """Measure latency, memory, temperature and throttling of bundles on a device.

    The outputs for the golden inputs come back and are compared. Exit status 3 if a figure is unstable
    or an answer wrong, 6 if a device cannot be reached or cannot run a bundle.
    """
    from edgevit.bundle.read import read_bundle
    from edgevit.profiling.contract import Settings

    for path in report or []:
        if path.suffix not in _WRITERS:
            raise UsageError(f"{path.name}: reports are {', '.join(_WRITERS)}", where=str(path))
    settings = Settings(
        threads=threads,
        cpus=parse_cpus(cpus),
        runs=runs,
        seconds=seconds,
        least_seconds=min(seconds, Settings().least_seconds),
        warmup_limit_s=warmup,
        per_op=per_op,
        sustained_s=sustained * 60,
        deadline_s=deadline,
    )
    bundles = [read_bundle(path) for path in bundle]
    skipped = Skipped()
    accuracies = [_accuracy(one, evaluate, quiet or json, skipped) for one in bundles]
    reach = reach_options(install_runtime, ssh_config, accelerator, lan, wait, quiet)
    profiles: list[Profile] = []
    errors: list[EdgevitError] = []
    for uri in device or ["local:"]:
        found, failed = _on_device(uri, reach, bundles, accuracies, settings, quiet or json)
        profiles += found
        errors += failed
    if publish is not None and profiles:
        errors += _publish(profiles, publish)
    _show(profiles, errors, json)
    if profiles:
        for path in report or []:
            _write(path, profiles, quiet)
    _leave(profiles, errors, allow_noisy)
    skipped.leave()


def _publish(profiles: list[Profile], path: Path) -> list[EdgevitError]:
    from edgevit.profiling.publish import publish as publish_profiles

    try:
        publish_profiles(profiles, path)
    except EdgevitError as error:
        return [error]
    return []


def _accuracy(bundle: Bundle, dataset: str | None, quiet: bool, skipped: Skipped) -> tuple[str, float] | None:
    if dataset is None:
        return None
    from edgevit.bundle.loaded import Deployed
    from edgevit.cli.console import counted
    from edgevit.verify.evaluate import evaluate_bundle

    with counted(None, f"evaluating {bundle.path.name}", quiet) as advance:
        return dataset, evaluate_bundle(Deployed(bundle), dataset, advance=advance, skip=skipped.once).accuracy


def _on_device(
    uri: str,
    reach: Reach,
    bundles: list[Bundle],
    accuracies: list[tuple[str, float] | None],
    settings: Settings,
    quiet: bool,
) -> tuple[list[Profile], list[EdgevitError]]:
    """Profile every bundle on one device; a failure leaves the others alone, a lost connection ends the loop."""
    from edgevit.devices.base import place_name
    from edgevit.errors import DeviceFailed, DeviceUnreachable
    from edgevit.profiling.measure import profile as run_profile

    found: list[Profile] = []
    errors: list[EdgevitError] = []
    try:
        with connected(uri, reach) as opened:
            for bundle, accuracy in zip(bundles, accuracies, strict=True):
                title = f"{bundle.manifest.model.name} {bundle.path.name} on {place_name(uri)}"
                try:
                    with watching(title, quiet) as listen:
                        found.append(run_profile(bundle, opened, settings, listen=listen, evaluated=accuracy))
                except (DeviceFailed, UsageError) as error:
                    error.where = ": ".join(part for part in (title, " ".join(error.where.split())) if part)
                    errors.append(error)
    except DeviceUnreachable as error:
        errors.append(error)
    return found, errors


def _show(profiles: list[Profile], errors: list[EdgevitError], json: bool) -> None:
    if json:
        document: dict[str, Any] = {"profiles": [one.to_dict() for one in profiles]}
        print_json(document | ({"errors": [error_document(one) for one in errors]} if errors else {}))
    elif profiles:
        from edgevit.report.profiles import COLUMNS, NUMBERS, bundle_name, rows_of

        print_table(COLUMNS, rows_of(profiles), right=NUMBERS)
        for one in profiles:
            for reason in (*one.reasons, *one.notes):
                stderr().print(f"{bundle_name(one)}: {reason}", markup=False)
            _show_operators(one)
    for error in errors:
        print_error(error)


def _show_operators(one: Profile, most: int = 12) -> None:
    if not one.operators:
        return
    total = sum(row.us for row in one.operators)
    print_table(
        ["operator", "kind", "unit", "calls", "µs", "share"],
        [
            [row.name, row.kind, row.unit, str(row.calls), f"{row.us:.1f}", f"{row.us / total:.1%}"]
            for row in one.operators[:most]
        ],
        right=("calls", "µs", "share"),
    )
    if len(one.operators) > most:
        stderr().print(f"{len(one.operators) - most} more in --json and --report", style="dim")


def _write(path: Path, profiles: list[Profile], quiet: bool) -> None:
    import json

    from edgevit.core.files import write_whole
    from edgevit.report.profiles import profile_markdown, profile_page

    if path.suffix == ".html":
        text = profile_page(profiles)
    elif path.suffix == ".md":
        text = profile_markdown(profiles)
    else:
        text = (
            json.dumps({"schema_version": SCHEMA_VERSION, "profiles": [one.to_dict() for one in profiles]}, indent=1)
            + "\n"
        )
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UsageError(f"the report cannot be written: {error.strerror}", where=str(path)) from error
    if not quiet:
        stderr().print(f"wrote {path}", style="dim", markup=False)


def _leave(profiles: list[Profile], errors: list[EdgevitError], allow_noisy: bool) -> None:
    """End with the status of the worst result: a failed device, then a wrong answer, then noise."""
    if errors or any(one.status == "partial" for one in profiles):
        raise typer.Exit(max([error.exit_code for error in errors], default=6))
    if any(one.status == "wrong" for one in profiles):
        raise typer.Exit(3)
    if any(one.status == "unstable" for one in profiles) and not allow_noisy:
        raise typer.Exit(3)
