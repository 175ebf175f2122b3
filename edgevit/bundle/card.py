"""Writes LICENCE and README of a bundle, for its recipient."""

from __future__ import annotations

from pathlib import Path

from edgevit.schema.manifest import Manifest

LICENCE = "LICENCE"
CARD = "README.md"


def write_licence(folder: Path, manifest: Manifest) -> None:
    """Write the licence of the weights and their origin."""
    model = manifest.model
    own = model.weights.kind == "file"
    terms = "set by whoever trained the weights file" if own else model.licence
    text = (
        f"Model: {model.name} ({model.family}; architecture {model.source} of timm or edgevit)\n"
        f"Weights: {model.weights.kind}, {model.weights.source}\n"
        f"Licence of the weights: {terms}\n"
    )
    (folder / LICENCE).write_text(text, encoding="utf-8")


def contract_lines(manifest: Manifest) -> list[str]:
    """The input contract as text: the model's input and output; docs/input-contract.md is the full rule."""
    source, output, rule = manifest.input, manifest.output, manifest.preprocess
    shape = "x".join(map(str, source.shape))
    return [
        f"- File: `{manifest.entry}`",
        f"- Input `{source.name}`: {source.layout} {source.dtype} [{shape}], {source.colour}, values {source.values}",
        f"- Picture to input: resize ({rule.interpolation}, antialiased, crop {rule.crop_pct:g}, {rule.crop_mode}) "
        f"to {rule.size[0]}x{rule.size[1]}"
        + ("" if rule.normalise_in_graph else f", then normalise by mean {rule.mean} and std {rule.std}"),
        f"- Output `{output.name}`: float32 [1x{output.classes}], {output.kind}"
        + ("; labels in `labels.txt`" if manifest.labels else ""),
    ]


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write a README that describes the bundle's input, output and verdict."""
    verdict = manifest.verdict
    lines = [
        f"# {manifest.model.name} for {manifest.target.runtime}, {manifest.target.precision}",
        "",
        *contract_lines(manifest),
    ]
    if verdict and verdict.status == "passed":
        lines.append(
            f"- Verdict: passed on {verdict.probes} probes in {verdict.runtime}; error {verdict.error:.1e} of the "
            f"output's range (limit {verdict.tolerance:.2g}), discrimination {verdict.discrimination:.3g}"
        )
    elif verdict:
        lines.append(f"- Verdict: {verdict.status.replace('_', ' ')}: {'; '.join(verdict.reasons)}")
    lines += ["- `golden/` holds pictures, exact inputs and PyTorch's outputs to test an app against.", ""]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")
