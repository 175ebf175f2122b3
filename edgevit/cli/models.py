"""`edgevit models`: what can be exported."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.console import Json, examples, print_json, print_table, quantity

if TYPE_CHECKING:
    from edgevit.schema.model import ModelSpec


class SortKey(StrEnum):
    """What the list can be sorted by."""

    NAME = "name"
    FAMILY = "family"
    PARAMETERS = "parameters"
    MACS = "macs"
    TOP1 = "top1"
    SIZE = "size"


def register(app: typer.Typer) -> None:
    """Add the command ``models`` to the command line."""
    app.command(epilog=examples("models 'tiny*' --sort macs", "models --max-macs 1000 --min-top1 75 --json"))(models)


def models(
    pattern: Annotated[str, typer.Argument(metavar="[GLOB]", help="Part of a name or family, or a glob.")] = "*",
    sort: Annotated[SortKey | None, typer.Option(help="Order of the list; by family if not given.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Largest first.")] = False,
    max_parameters: Annotated[float | None, typer.Option(help="At most so many million parameters.")] = None,
    max_macs: Annotated[float | None, typer.Option(help="At most so many million multiply-accumulates.")] = None,
    min_top1: Annotated[float | None, typer.Option(help="At least this published top-1, in percent.")] = None,
    json: Json = False,
) -> None:
    """List models with their cost, input and published accuracy.

    Any other timm image classifier can be named too, as can hf-hub:OWNER/REPO and a local timm folder. The columns fp32
    and fp16 say in which formats the family's smallest member was exported and judged right.
    """
    from edgevit.errors import UnknownName
    from edgevit.models.registry import converting_formats, list_models, zoo

    found = list_models(pattern)
    if not found:
        raise UnknownName("model", pattern, zoo(), listing="edgevit models lists what there is")
    found = [spec for spec in found if _within(spec, max_parameters, max_macs, min_top1)]
    if sort:
        found.sort(key=lambda spec: _value(spec, sort), reverse=reverse)
    elif reverse:
        found.reverse()
    if json:
        formats = converting_formats()
        print_json({"models": [{**spec.to_dict(), "formats": formats.get(spec.family, {})} for spec in found]})
        return
    columns = ["name", "family", "parameters", "MACs", "input", "top-1 %", "source", "licence", "fp32", "fp16"]
    print_table(columns, [_row(spec) for spec in found], right=("parameters", "MACs", "top-1 %"))


def _within(spec: ModelSpec, max_parameters: float | None, max_macs: float | None, min_top1: float | None) -> bool:
    return (
        (max_parameters is None or spec.parameters <= max_parameters * 1e6)
        and (max_macs is None or spec.macs <= max_macs * 1e6)
        and (min_top1 is None or (spec.top1 or 0) >= min_top1)
    )


def _value(spec: ModelSpec, key: SortKey) -> float | str:
    if key is SortKey.SIZE:
        return spec.preprocessing.size[0]
    value = getattr(spec, key)
    return value if value is not None else 0.0


def _row(spec: ModelSpec) -> list[str]:
    height, width = spec.preprocessing.size
    top1 = f"{spec.top1:.1f}" if spec.top1 is not None else "–"
    return [
        spec.name,
        spec.family,
        quantity(spec.parameters),
        quantity(spec.macs),
        f"{height}x{width}",
        top1,
        spec.top1_source or "–",
        spec.licence,
        *(_formats(spec.family, precision) for precision in ("fp32", "fp16")),
    ]


def _formats(family: str, precision: str) -> str:
    """The formats that a family converts to, in one cell."""
    from edgevit.models.registry import converting_formats
    from edgevit.schema.target import runtimes

    good = converting_formats().get(family, {}).get(precision, ())
    every = {runtime.backend for runtime in runtimes().values()}
    return "all formats" if every <= set(good) else ", ".join(good) or "–"
