"""The number of units of each group that a pruning level keeps.

One share scales every width, as in ED-ViT: with ``h`` heads and ``s`` of their widths pruned it is ``(h-s)/h``.
That the paper scales all widths alike is our inference; it reproduces its headline figures within 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from edgevit.compress.width.structure import Group, Structure
from edgevit.errors import UsageError

DIVISOR = 4
"""Channels and neurons are kept in multiples of this, which is what vector units like."""
_LEAST = {"residual": 8, "attention": 2, "hidden": 4}
"""The fewest units of a group that a cut leaves, by pruning stage."""


def parse_keep(text: str) -> Fraction:
    """Parse ``1/3`` or ``0.25`` as a share.

    Raises:
        UsageError: not a share above 0 and at most 1.
    """
    try:
        keep = Fraction(text).limit_denominator(1000)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{text!r} is not a share", cure="give a fraction such as 1/3, or a number such as 0.25"
        ) from error
    if not 0 < keep <= 1:
        raise UsageError(f"a share of {text} cannot be kept", cure="give a share above 0 and at most 1")
    return keep


def rounded(size: int, keep: Fraction, least: int) -> int:
    """A share of a width rounded to multiples of `DIVISOR`; a small width to single units."""
    step = DIVISOR if size >= 4 * DIVISOR else 1
    return min(size, max(min(least, size), step * round(size * keep / step)))


def counts(
    structure: Structure, keep: Fraction, *, original: Mapping[str, int], marginal: Mapping[str, float] | None = None
) -> dict[str, int]:
    """The number of units to keep in each group, relative to the original widths.

    Heads of one layer stay equally wide. Where the share of a head's width is not a whole number, some layers keep
    one unit more than others, so that the layers together keep the share: those with the largest remainder, then
    those whose marginal unit matters most.

    Args:
        structure: of the model.
        keep: the share.
        original: sizes before any pruning.
        marginal: by layer, the importance of the unit in question; None where it does not matter.
    """
    kept = {
        name: rounded(original[name], keep, _LEAST[group.stage])
        for name, group in structure.groups.items()
        if group.stage != "attention"
    }
    for layer, count in _heads(structure, keep, original, marginal or {}).items():
        for group in structure.of_stage("attention"):
            if group.layer == layer:
                kept[group.name] = count
    for group in structure.groups.values():
        if group.layer in kept:
            kept[group.name] = kept[group.layer]
    return kept


def _heads(
    structure: Structure, keep: Fraction, original: Mapping[str, int], marginal: Mapping[str, float]
) -> dict[str, int]:
    layers: dict[str, Group] = {}
    for group in structure.of_stage("attention"):
        layers.setdefault(group.layer, group)
    exact = {layer: original[group.name] * keep for layer, group in layers.items()}
    found = {
        layer: max(min(_LEAST["attention"], original[layers[layer].name]), int(share)) for layer, share in exact.items()
    }
    extra = round(sum(share - int(share) for share in exact.values()))
    by_need = sorted(exact, key=lambda layer: (-(exact[layer] - int(exact[layer])), -marginal.get(layer, 0.0), layer))
    for layer in by_need[:extra]:
        found[layer] = max(found[layer], int(exact[layer]) + 1)
    return found
