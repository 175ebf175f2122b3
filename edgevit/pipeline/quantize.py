"""Loads a model, quantizes it, checks its floor, and writes the recipe and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.core.disk import explained_disk_errors
from edgevit.core.files import write_whole
from edgevit.errors import CheckFailed, UsageError
from edgevit.quant.options import QuantizeOptions

if TYPE_CHECKING:
    from edgevit.quant.quantize import Quantized

SUFFIX = ".json"


def _write(path: Path, text: str) -> None:
    with explained_disk_errors(path):
        write_whole(path, text.encode())


def quantize(
    model: str, options: QuantizeOptions, out: Path, *, report: Path | None = None, **further: Any
) -> Quantized:
    """Quantize a model and write its recipe.

    Args:
        model: a name, see `edgevit.models.registry.find_model`.
        options: how.
        out: the recipe's file. Where a floor is missed, it is written beside it, as ``NAME.rejected.json``.
        report: the HTML page of every layer's sensitivity.
        further: ``progress``, ``warn`` and ``skip`` as for `edgevit.quant.quantize.quantize_loaded`; the rest goes to
            `edgevit.models.load.load_model`.

    Returns:
        The recipe, and the layers' sensitivity where a report was asked for.

    Raises:
        UsageError: the request is wrong; nothing was written.
        BadFile: the pictures cannot be used.
        CheckFailed: the floor was missed, or the model gives values that are not finite.
    """
    options.check()
    if out.suffix != SUFFIX or out.is_dir():
        raise UsageError(f"a recipe is a .json file, not {out}", cure=f"-o {out.with_suffix(SUFFIX)}")
    if report is not None and report.is_dir():
        raise UsageError(f"the report is a file, and {report} is a folder", cure=f"--report {report / 'layers.html'}")
    from edgevit.models.load import load_model
    from edgevit.quant.quantize import check_floor, quantize_loaded

    callbacks = {key: further.pop(key) for key in ("progress", "warn", "skip") if key in further}
    loaded = load_model(model, **further)
    for note in loaded.notes if "warn" in callbacks else ():
        callbacks["warn"](note)
    found = quantize_loaded(loaded, options, report=report is not None, **callbacks)
    if report is not None:
        from edgevit.report.sensitivity import sensitivity_page

        _write(report, sensitivity_page(found.recipe, found.layers))
    try:
        check_floor(found.recipe, options.floor)
    except CheckFailed as error:
        kept = out.with_suffix(".rejected" + SUFFIX)
        _write(kept, found.recipe.to_json())
        error.where = f"{error.where}; kept for inspection as {kept}"
        raise
    _write(out, found.recipe.to_json())
    return found
