"""The public functions behind `edgevit.NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.build.export import ExportResult
from edgevit.build.export import export as run_export
from edgevit.build.options import ExportOptions
from edgevit.bundle.deployed import Deployed, load
from edgevit.bundle.read import read_bundle
from edgevit.core.events import Listener, ignore
from edgevit.core.manifest import VerdictInfo
from edgevit.models.registry import list_models
from edgevit.verify.evaluate import Evaluation

if TYPE_CHECKING:
    from edgevit.verify.hazards import HazardReport

__all__ = ["Deployed", "evaluate", "export", "find_hazards", "list_models", "load", "verify_bundle"]


def export(model: str, targets: Sequence[str], *, listen: Listener = ignore, **options: Any) -> list[ExportResult]:
    """Export a model; options are the fields of `edgevit.build.options.ExportOptions`.

    Returns:
        One result a target; a failed target has its ``error`` and leaves the others alone.

    Raises:
        UsageError: the request is wrong; nothing was written.
        EnvironmentIncomplete: weights, packages or disk space are missing.
    """
    if "out" in options:
        options["out"] = Path(options["out"])
    return run_export(ExportOptions(model, tuple(targets), **options), listen)


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
    from edgevit.verify.check import verify_bundle as judge_bundle

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
