"""The sensitivity report: which layers quantization hurts, as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

from edgevit.quant.sensitivity import LayerSensitivity
from edgevit.report.page import cards, page, table
from edgevit.schema.recipe import Recipe

_WORST = 3
"""Layers that the text names."""
_ROW, _LABELS, _BARS, _TOP = 17, 330, 520, 34
_LEAST = 1e-9
"""Smallest divergence shown, since a logarithmic axis has no zero."""


def _share(divergence: float, low: float, high: float) -> float:
    """The position of a divergence on a logarithmic scale, 0 to 1."""
    span = max(high - low, 1e-6)
    return min(1.0, max(0.0, (log10(max(divergence, _LEAST)) - low) / span))


def _chart(layers: Sequence[LayerSensitivity], worst: set[str]) -> str:
    """One bar a layer, in the order of the model: its length is what it alone moves the answers by."""
    logs = [log10(max(one.divergence, _LEAST)) for one in layers]
    low, high = floor(min(logs)) - 1, ceil(max(logs) + 1e-9)
    height, width = _TOP + _ROW * len(layers) + 8, _LABELS + _BARS + 110
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="divergence of the answers, one bar a layer" '
        'font-family="system-ui, sans-serif" font-size="11">'
    ]
    for power in range(low, high + 1):
        x = _LABELS + _BARS * _share(10.0**power, low, high)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height - 6}" stroke="var(--line)"/>'
            f'<text class="soft" x="{x:.1f}" y="{_TOP - 12}" text-anchor="middle">1e{power}</text>'
        )
    for place, one in enumerate(layers):
        y = _TOP + _ROW * place
        length = _BARS * _share(one.divergence, low, high)
        colour = "var(--bad)" if one.name in worst else "var(--bar)"
        name = one.module or one.name
        shown = name if len(name) <= 48 else "…" + name[-47:]
        parts.append(
            f"<g><title>{escape(name)}: {one.divergence:.2g} nats, its own SQNR {one.sqnr_db:.1f} dB</title>"
            f'<text x="{_LABELS - 8}" y="{y + 11}" text-anchor="end">{escape(shown)}</text>'
            f'<rect x="{_LABELS}" y="{y + 2}" width="{max(length, 1):.1f}" height="{_ROW - 5}" rx="2" fill="{colour}"/>'
            f'<text class="soft" x="{_LABELS + length + 6:.1f}" y="{y + 11}">{one.sqnr_db:.0f} dB</text></g>'
        )
    return "".join(parts) + "</svg>"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _facts(recipe: Recipe, layers: Sequence[LayerSensitivity]) -> dict[str, str]:
    bits = f"W{recipe.weight_bits}" + (f"A{recipe.activation_bits}" if recipe.activation_bits else "")
    facts = {"precision": bits, "layers quantized": f"{len(recipe.weights)} of {len(recipe.modules)}"}
    found = recipe.agreement
    if found is not None:
        if found.accuracy is not None:
            facts["accuracy"] = f"{_percent(found.accuracy)}"
            facts["accuracy in float"] = _percent(found.float_accuracy)
        facts["same answer as float"] = _percent(found.top1)
        if found.sqnr_db is not None:
            facts["logits' SQNR"] = f"{found.sqnr_db:.1f} dB"
    facts["multiply-accumulates"] = f"{sum(one.macs for one in layers) / 1e6:.0f} M"
    return facts


def sensitivity_page(recipe: Recipe, layers: Sequence[LayerSensitivity]) -> str:
    """The sensitivity report as HTML.

    Args:
        recipe: that was solved.
        layers: every layer's sensitivity, in the order of the model.
    """
    ranked = sorted(layers, key=lambda one: one.divergence, reverse=True)
    worst = ranked[:_WORST]
    named = "".join(
        f"<li><b>{escape(one.module or one.name)}</b> ({one.kind}): quantizing it alone moves the answers by "
        f"{one.divergence:.2g} nats and changes {one.changed:.0%} of them; its result keeps {one.sqnr_db:.0f} dB</li>"
        for one in worst
    )
    calibration = recipe.calibration
    source = f"{calibration.images} pictures of {calibration.source}" if calibration else "no pictures"
    kept = [[recipe.modules.get(name) or name, why] for name, why in recipe.kept.items()]
    body = [
        f'<p class="soft">{escape(recipe.quantizer)}, calibrated on {escape(source)}</p>',
        cards(_facts(recipe, layers)),
        f"<h2>The worst {len(worst)}</h2><ol>{named}</ol>",
        "<h2>Every layer, quantized alone</h2>"
        '<p class="soft">Length: Kullback-Leibler divergence of the answers, in nats, on a logarithmic scale. '
        "Figure: signal-to-quantization-noise ratio of what the layer gives. In red: the worst.</p>",
        f'<div class="scroll">{_chart(layers, {one.name for one in worst})}</div>',
        "<h2>In numbers</h2>",
        table(
            {
                "layer": False,
                "kind": False,
                "MACs": True,
                "SQNR, dB": True,
                "divergence, nats": True,
                "logits' SQNR, dB": True,
                "answers changed": True,
            },
            [
                [
                    one.module or one.name,
                    one.kind,
                    f"{one.macs / 1e6:.2f} M",
                    f"{one.sqnr_db:.1f}",
                    f"{one.divergence:.2g}",
                    f"{one.logits_db:.1f}",
                    f"{one.changed:.0%}",
                ]
                for one in ranked
            ],
        ),
    ]
    if kept:
        body += ["<h2>Kept in floating point</h2>", table({"layer": False, "why": False}, kept)]
    footer = f"edgevit {recipe.edgevit}, torch {recipe.torch}; graph {recipe.model.graph[:12]}"
    return page(f"Quantization of {recipe.model.name}", "\n".join(body), footer)
