"""Commands whose options are the fields of an options class: names, types, defaults and helps are read from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from edgevit.core.options import OptionField, option_fields

_fields = cache(option_fields)
"""A dozen fields are looked up one by one while the command line starts."""


def typer_option(options: type, name: str) -> Any:
    """What Typer is told of one field, for a command that takes only some of a class's fields."""
    return _told(next(one for one in _fields(options) if one.name == name))


def from_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that takes an options object, and what else it names by keyword.

    Args:
        options: a dataclass, see `edgevit.core.options.option_fields`.

    Returns:
        A decorator. The command has the class's fields as its options, followed by the function's own keywords.
    """
    offered = _fields(options)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            values = {one.name: _value(one, given.pop(_typed_name(one))) for one in offered}
            function(options(**values), **given)

        hints = get_type_hints(function, include_extras=True)
        own = [
            one.replace(annotation=hints[one.name])
            for one in inspect.signature(function).parameters.values()
            if one.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        parameters = [*(_parameter(one) for one in offered), *own]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        del command.__wrapped__  # whose signature is another
        return command

    return decorate


def _parameter(one: OptionField) -> inspect.Parameter:
    default = None if one.default == () else one.default
    return inspect.Parameter(
        _typed_name(one),
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is ... else default,
        annotation=Annotated[_typed(one), _told(one)],
    )


def _typed_name(one: OptionField) -> str:
    """The option's own name as an identifier: environment variables are named by it."""
    first = one.option.names[0].partition("/")[0] if one.option.names else one.name
    return first.lstrip("-").replace("-", "_")


def _typed(one: OptionField) -> Any:
    """The type of what is typed: a file's path where it is read, a list where the field is a tuple."""
    if one.option.reader is not None:
        return Path | None
    if get_origin(one.kind) is tuple:
        return list[str] if one.default is ... else list[str] | None
    return one.kind


def _told(one: OptionField) -> Any:
    option = one.option
    if option.argument:
        return typer.Argument(help=option.help, metavar=option.metavar)
    names = option.names or ("--" + one.name.replace("_", "-"),)
    return typer.Option(*names, help=option.help, metavar=option.metavar, min=option.least, parser=option.parser)


def _value(one: OptionField, given: Any) -> Any:
    """The field's value of what was typed."""
    if one.option.reader is not None:
        return None if given is None else one.option.reader(given)
    if get_origin(one.kind) is tuple and get_args(one.kind)[-1] is ...:
        return tuple(given or ())
    return given
