"""Accuracy of every quantizer on the bundled trained models, as they are and with channels of wild ranges.

    python tools/bench/quantization.py [MODEL...] [--quantizer NAME...] [--render]

Each cell calibrates on 32 pictures of digits:train and evaluates the quantized model in PyTorch on digits:test.
The wild models compute the same function: wherever a value's channels can be changed exactly, they are
multiplied by factors between 1 and 64, drawn at random, and divided again where they are read. Every cell is
added to docs/measured/quantization.json as it comes; the tables between the markers of docs/quantization.md are
rendered from that file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from edgevit.graph.capture import capture
from edgevit.graph.qdq.base_graph import digest, quantizable
from edgevit.graph.qdq.channel_folds import apply_fold, sites_of
from edgevit.models.bundled import BUILDERS
from edgevit.models.load import load_model
from edgevit.quant.agreement import agreement_of, answers, labelled_inputs
from edgevit.quant.calibration import read_pictures
from edgevit.quant.options import Bits
from edgevit.quant.registry import quantizers
from edgevit.quant.solve import CanonicalModel, quantized_graph, solve_recipe
from edgevit.schema.recipe import RecipeModel

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs/measured/quantization.json", ROOT / "docs/quantization.md"
ORDER = ("minmax", "percentile", "easyquant", "ptq4vit", "fqvit", "repq", "hyq", "qhyvit-symmetric", "qhyvit")
OCTAVES = 6
"""Factors go from 1 to 2^6."""
SEED = 7
KINDS = {"plain": "As trained", "wild": "With channels multiplied by 1 to 64"}


def wild(core: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The same function with channels of very different ranges."""
    random = torch.Generator().manual_seed(SEED)
    for site in sites_of(core):
        apply_fold(core, site, 2.0 ** -(torch.rand(site.channels, generator=random) * OCTAVES))
    core.recompile()
    return core


def source_of(name: str, kind: str) -> tuple[CanonicalModel, Any]:
    loaded = load_model(name)
    program = capture(loaded.module, loaded.preprocessing.size)

    def make() -> torch.fx.GraphModule:
        core = quantizable(program)
        return wild(core) if kind == "wild" else core

    model = RecipeModel(name=name, size=loaded.preprocessing.size, classes=10, graph=digest(make()))
    return CanonicalModel(make, model), loaded


def run(name: str, chosen: list[str], results: dict[str, Any]) -> None:
    for kind in KINDS:
        source, loaded = source_of(name, kind)
        inputs, truth = labelled_inputs("digits:test", loaded.labels, loaded.preprocessing)
        pictures = read_pictures("digits:train", loaded.preprocessing)
        exact = answers(source.make(), inputs)
        for quantizer in chosen:
            for bits in (8, 6):
                key = f"{kind} {name} {quantizer} W{bits}A{bits}"
                if key in results:
                    continue
                started = time.monotonic()
                recipe = solve_recipe(source, quantizers()[quantizer], pictures, bits=Bits(bits, bits))
                seconds = time.monotonic() - started
                found = agreement_of(
                    exact, answers(quantized_graph(source.make(), recipe), inputs), "digits:test", truth
                )
                results[key] = {
                    "accuracy": found.accuracy,
                    "float": found.float_accuracy,
                    "top1": found.top1,
                    "sqnr_db": found.sqnr_db,
                    "seconds": round(seconds, 1),
                }
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                print(key, results[key], flush=True)


def table(results: dict[str, Any], kind: str, bits: int) -> str:
    models = list(BUILDERS)
    lines = [
        "| quantizer | " + " | ".join(name.removesuffix("_digits") for name in models) + " |",
        "| --- |" + " --: |" * len(models),
    ]
    known = [results.get(f"{kind} {name} minmax W{bits}A{bits}") for name in models]
    lines.append("| *float* | " + " | ".join(f"*{one['float']:.2%}*" if one else "–" for one in known) + " |")
    for quantizer in ORDER:
        cells = []
        for name in models:
            one = results.get(f"{kind} {name} {quantizer} W{bits}A{bits}")
            cells.append(f"{one['accuracy']:.2%} ({one['sqnr_db']:.0f} dB)" if one else "–")
        lines.append(f"| `{quantizer}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render(results: dict[str, Any]) -> None:
    parts = []
    for kind, title in KINDS.items():
        for bits in (8, 6):
            note = "" if bits == 8 else ", simulated"
            parts.append(f"**{title}, W{bits}A{bits}{note}**\n\n{table(results, kind, bits)}")
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split("<!-- accuracy -->\n", 1)
    after = rest.split("<!-- /accuracy -->", 1)[1]
    body = "\n\n".join(parts)
    PAGE.write_text(f"{before}<!-- accuracy -->\n{body}\n<!-- /accuracy -->{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--quantizer", action="append")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not given.render:
        for name in given.models or BUILDERS:
            run(name, given.quantizer or list(ORDER), results)
    render(results)


if __name__ == "__main__":
    main()
