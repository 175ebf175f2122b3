"""How a field of an options class is offered on the command line: data beside the field, so that neither is copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_args, get_type_hints


@dataclass(frozen=True)
class Option:
    """What the command line says of a field, written as ``field: Annotated[type, Option(...)] = default``.

    Attributes:
        help: one line.
        names: option names, e.g. ``("--target", "-t")``; the field's own name if there are none.
        metavar: what stands for the value in the help page.
        least: smallest number that is taken.
        parser: turns the text that was typed into the value; it may raise a `UsageError`.
        reader: turns a file's path, which is what is typed, into the value.
        argument: the value is given by position, without a name.
        decides: whether the field decides what is made, and so belongs to a cache key.
    """

    help: str
    names: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    parser: Callable[[str], Any] | None = None
    reader: Callable[[Any], Any] | None = None
    argument: bool = False
    decides: bool = True


@dataclass(frozen=True)
class OptionField:
    """One field of an options class: its name, its type without the annotation, its default and its `Option`."""

    name: str
    kind: Any
    default: Any
    option: Option


def option_fields(options: type) -> tuple[OptionField, ...]:
    """The fields of an options class in their order.

    Args:
        options: a dataclass whose fields are all annotated with an `Option`.

    Raises:
        TypeError: a field is not.
    """
    hints = get_type_hints(options, include_extras=True)
    found = []
    for one in fields(options):
        kind, *further = get_args(hints[one.name])
        option = next((given for given in further if isinstance(given, Option)), None)
        if option is None:
            raise TypeError(f"{options.__name__}.{one.name} has no Option")
        found.append(OptionField(one.name, kind, _default(one), option))
    return tuple(found)


def _default(one: Field[Any]) -> Any:
    """A field's default; ``...`` where it has none."""
    if one.default_factory is not MISSING:
        return one.default_factory()
    return ... if one.default is MISSING else one.default
