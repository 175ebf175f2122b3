"""The public functions behind `edgevit.NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.loaded import Deployed, load
from edgevit.bundle.read import read_bundle
from edgevit.core.progress import Listener, ignore
from edgevit.models.registry import list_models
from edgevit.pipeline.export import ExportResult
from edgevit.pipeline.export import export as run_export
from edgevit.pipeline.options import ExportOptions
from edgevit.schema.manifest import VerdictInfo
from edgevit.verify.evaluate import Evaluation

if TYPE_CHECKING:
    from edgevit.fleet.running import FleetOptions, RunningFleet
    from edgevit.quant.quantize import Quantized
    from edgevit.schema.plan import Fleet, Plan
    from edgevit.schema.profile import Profile, ProfileComparison
    from edgevit.verify.hazards import HazardReport

__all__ = [
    "Deployed",
    "compare",
    "evaluate",
    "export",
    "find_hazards",
    "list_models",
    "load",
    "new_app",
    "open_fleet",
    "profile",
    "quantize",
    "split_model",
    "verify_bundle",
]


def export(model: str, targets: Sequence[str], *, listen: Listener = ignore, **options: Any) -> list[ExportResult]:
    """Export a model; options are the fields of `edgevit.pipeline.options.ExportOptions`.

    Returns:
        One result a target; a failed target has its ``error`` and leaves the others alone.

    Raises:
        UsageError: the request is wrong; nothing was written.
        EnvironmentIncomplete: weights, packages or disk space are missing.
    """
    for name in ("out", "recipe"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    return run_export(ExportOptions(model, tuple(targets), **options), listen)


def quantize(
    model: str,
    calib: str | None = None,
    *,
    out: Path | str,
    bits: str = "w8a8",
    auto_mixed: str | None = None,
    report: Path | str | None = None,
    weights: str = "pretrained",
    num_classes: int | None = None,
    labels: tuple[str, ...] | None = None,
    size: int | None = None,
    weights_seed: int = 0,
    **options: Any,
) -> Quantized:
    """Solve a recipe and write it.

    Args:
        model: a name.
        calib: a folder of pictures, or ``digits:train``; None for weights only.
        out: the recipe's file.
        bits: ``w8a8``, ``w8``, ``w4``, ``w8a8-dynamic``, or another pair to be simulated.
        auto_mixed: ``size=1.2`` or ``latency=1.1``.
        report: an HTML page of every layer's sensitivity.
        weights: as for `edgevit.models.load.load_model`, and so the next three.
        num_classes: head size.
        labels: class names.
        size: side of a square input in pixels.
        weights_seed: of random weights.
        options: further fields of `edgevit.quant.options.QuantizeOptions`.

    Raises:
        UsageError: the request is wrong; nothing was written.
        CheckFailed: the floor was missed.
    """
    from edgevit.pipeline.quantize import quantize as run_quantize
    from edgevit.quant.options import QuantizeOptions, parse_bits, parse_budget

    budget = parse_budget(auto_mixed) if auto_mixed else None
    return run_quantize(
        model,
        QuantizeOptions(calib, bits=parse_bits(bits), budget=budget, **options),
        Path(out),
        report=Path(report) if report else None,
        weights=weights,
        num_classes=num_classes,
        labels=labels,
        size=size,
        seed=weights_seed,
    )


def verify_bundle(
    bundle: Path | str, *, reference: str | None = None, images: Path | str | None = None, **model_options: Any
) -> VerdictInfo:
    """Judge a bundle again, against its golden vectors or a PyTorch model.

    Args:
        bundle: its folder.
        reference: a model's name; compare with PyTorch in place of the golden outputs.
        images: a folder of further pictures; needs a reference.
        model_options: as for `edgevit.models.load.load_model`, e.g. ``weights``.
    """
    from edgevit.verify.bundle import verify_bundle as judge_bundle

    module = None
    if reference is not None:
        from edgevit.models.load import load_model

        module = load_model(reference, **model_options).module
    return judge_bundle(read_bundle(Path(bundle)), reference=module, images=Path(images) if images else None)


def find_hazards(bundle: Path | str, *, images: Path | str | None = None) -> HazardReport:
    """Where half precision goes wrong in a Core ML bundle.

    Args:
        bundle: its folder.
        images: a folder of pictures beside the golden ones.

    Raises:
        UsageError: a bundle of another format.
    """
    from edgevit.verify.hazards import bundle_hazards

    return bundle_hazards(read_bundle(Path(bundle)), Path(images) if images else None)


def evaluate(model: str | Path, dataset: str, **options: Any) -> Evaluation:
    """Accuracy of a bundle's folder or of a PyTorch model by name.

    Args:
        model: a bundle's folder or a model's name.
        dataset: ``digits:train``, ``digits:test``, or a folder with one sub-folder a class.
        options: for a model by name, as for `edgevit.models.load.load_model`.
    """
    from edgevit.bundle.read import is_bundle
    from edgevit.verify.evaluate import evaluate_bundle, evaluate_model

    if is_bundle(Path(model)):
        return evaluate_bundle(load(model), dataset)
    from edgevit.models.load import load_model

    return evaluate_model(load_model(str(model), **options), dataset)


def profile(
    bundle: Path | str, device: str = "local:", *, reach: dict[str, Any] | None = None, **options: Any
) -> Profile:
    """Measure a bundle on a device, by the noise contract of docs/profiling.md.

    Args:
        bundle: its folder.
        device: a URI, as for ``edgevit profile -d``.
        reach: fields of `edgevit.devices.base.Reach`, e.g. ``install_runtime``.
        options: fields of `edgevit.profiling.contract.Settings`, e.g. ``threads``.

    Raises:
        UsageError: the device runs no such bundles.
        DeviceUnreachable: it does not answer, or cannot run this one.
    """
    from edgevit.devices.base import Reach, open_device
    from edgevit.profiling.contract import Settings
    from edgevit.profiling.measure import profile as run_profile

    settings, opened = Settings(**options), read_bundle(Path(bundle))
    with closing(open_device(device, Reach(**(reach or {})))) as connected:
        return run_profile(opened, connected, settings)


def compare(
    a: Path | str, b: Path | str, device: str = "local:", *, reach: dict[str, Any] | None = None, **options: Any
) -> ProfileComparison:
    """Measure two bundles in turns; arguments as for `profile`. The ratio says how many times as long B takes."""
    from edgevit.devices.base import Reach, open_device
    from edgevit.profiling.compare import compare as run_compare
    from edgevit.profiling.contract import Settings

    settings, first, second = Settings(**options), read_bundle(Path(a)), read_bundle(Path(b))
    with closing(open_device(device, Reach(**(reach or {})))) as connected:
        return run_compare(first, second, connected, settings)


def split_model(
    model: str, data: str, out: Path | str, fleet: Fleet | Path | str | int, *, keep: str | None = None, **options: Any
) -> Plan:
    """Split a model by classes over several devices, as ``edgevit split``.

    Args:
        model: a name or a folder.
        data: labelled pictures: a folder of classes, or ``digits:train``.
        out: the plan's folder.
        fleet: a fleet's file, a `edgevit.schema.plan.Fleet`, or how many equal members.
        keep: share of every width, e.g. ``1/3``; None chooses by the members' limits.
        options: further fields of `edgevit.split.options.SplitOptions`, e.g. ``copies`` or ``seed``.

    Raises:
        UsageError: the request is wrong; nothing was written.
        CheckFailed: the sub-models do not fit the fleet, or a bundle failed its verdict.
    """
    from edgevit.schema.plan import Fleet, read_fleet
    from edgevit.split.options import SplitOptions, equal_fleet
    from edgevit.split.plan.widths import parse_keep
    from edgevit.split.run import split_model as run_split

    base = Path()
    if isinstance(fleet, int):
        fleet = equal_fleet(fleet)
    elif not isinstance(fleet, Fleet):
        base, fleet = Path(fleet).parent, read_fleet(Path(fleet))
    if keep is not None:
        options["levels"] = (parse_keep(keep),)
    return run_split(SplitOptions(model, data, fleet, **options), Path(out), base)


def open_fleet(plan: Path | str, options: FleetOptions | None = None, wait: float = 10.0) -> RunningFleet:
    """Run a plan: by default the whole fleet in this process. Use it as a context manager.

    Args:
        plan: its folder.
        options: see `edgevit.fleet.running.FleetOptions`; role ``coordinator`` waits for members on other devices.
        wait: seconds for the members to come.

    Raises:
        DeviceUnreachable: no member came.
        UsageError: the address cannot be used.
        CheckFailed: the plan's files were changed.
    """
    from edgevit.fleet.running import open_fleet as run_fleet

    return run_fleet(plan, options, wait)


def new_app(template: str, bundle: Path | str, out: Path | str) -> None:
    """Start an app around a bundle, as `edgevit app new` does; `edgevit app list` names the templates.

    Args:
        template: ``web``, ``raspberry-pi``, ``android``, ``ios`` or ``fleet``.
        bundle: its folder; for ``fleet`` a plan's.
        out: the app's folder, which must not be there yet or be empty.

    Raises:
        UsageError: no such template, ``out`` is in use, or the app cannot run this bundle.
        CheckFailed: the bundle was changed after it was written.
    """
    from edgevit.templates.create import new_app as make

    make(template, Path(bundle), Path(out))
