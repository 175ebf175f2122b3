"""What each rewrite is worth: every artifact with its rewrites, against the same without one of them.

    python tools/bench/rewrites.py [NAME...] [-t FORMAT...] [--runs 60] [--render]

For each model and format lowers the captured program with the format's rewrites and, for each of those that
are not for all formats, that matched and that the format does not need, without it; then runs all these
files in one process, interleaved, on one thread, and so several times. A ratio is the time without the
rewrite divided by the time with it. Each model is added to docs/measured/rewrites-measured.json as it comes. From that
file are written docs/rewrites-measured.md and the choice that exports make,
edgevit/graph/rewrites/choice.json: a rewrite that slows a family down is left out for it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.export_speed import FORMATS, HEADS, MODELS, measure
from tools.bench.timing import median_interval

ROOT = Path(__file__).parents[2]
NEEDED = ("flat_attention", "flat_softmax", "resize_as_matmul")
"""They are there for a right result, and leave alone what is right without them."""
SMALLER = 0.99
"""What makes the file smaller than this stays."""
SLOWER = 0.99
"""A rewrite is left out for a family where even the upper end of its ratio's interval is below this."""


def lowered(name: str, fmt: str, folder: Path) -> tuple[dict[str, Path], list[int]]:
    """The file with all rewrites under "", those without one under its name; and the input's shape."""
    import torch

    from edgevit.backends.process.job import lower_job
    from edgevit.backends.process.jobs import ProcessLimits, run_job
    from edgevit.errors import ConversionFailed
    from edgevit.graph.capture import capture
    from edgevit.graph.rewrites import ALL_BACKENDS, rewrites_for
    from edgevit.models.load import load_model
    from edgevit.pipeline.describe import describe
    from edgevit.pipeline.options import ExportOptions
    from edgevit.schema.manifest import Lowering
    from edgevit.schema.target import resolve_target

    loaded, runtime = load_model(name, weights="random"), resolve_target(fmt)
    program = folder / "program.pt2"
    torch.export.save(capture(loaded.module, loaded.preprocessing.size), program)
    options = ExportOptions(name, (fmt,), weights="random", input="tensor", output="logits")
    manifest = describe(loaded, options, runtime)
    chosen = rewrites_for(fmt)

    def lower(without: str) -> tuple[Path, dict[str, int]]:
        place = folder / (without or "all")
        place.mkdir()
        asked = tuple(one.name for one in chosen if one.name != without)
        target = manifest.target.model_copy(update={"rewrites": asked})
        made = place / manifest.entry
        job = lower_job(program, manifest.model_copy(update={"target": target}), runtime, made)
        return made, run_job(job, Lowering, place, place / "log", ProcessLimits(threads=1)).rewrites

    def lower_without(rewrite: str) -> Path | None:
        try:
            return lower(rewrite)[0]
        except ConversionFailed:
            return None

    full, matched = lower("")
    tried = [one.name for one in chosen if one.backends != ALL_BACKENDS and matched.get(one.name)]
    tried = [one for one in tried if one not in NEEDED]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = zip(tried, pool.map(lower_without, tried), strict=True)
        files = {rewrite: path for rewrite, path in made if path is not None}
    return {"": full, **files}, [1, 3, *loaded.preprocessing.size]


def worth(name: str, fmt: str, runs: int) -> dict[str, Any]:
    """Each rewrite's ratio on one model and format."""
    with tempfile.TemporaryDirectory() as folder:
        files, shape = lowered(name, fmt, Path(folder))
        times = measure([(fmt, path) for path in files.values()], shape, runs, 1)
        size = files[""].stat().st_size
        found = {}
        for place, rewrite in enumerate(files):
            if rewrite:
                ratio, low, high = median_interval(times[:, place] / times[:, 0])
                grown = size / files[rewrite].stat().st_size
                found[rewrite] = {"ratio": ratio, "low": low, "high": high, "size": grown}
    return found


def family(name: str) -> str:
    from edgevit.models.registry import find_model

    return find_model(name).family


def choice(results: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """For each format and family, what slows it down and does not make the file smaller."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, formats in results.items():
        for fmt, rewrites in formats.items():
            slow = sorted(key for key, one in rewrites.items() if one["high"] < SLOWER and one["size"] > SMALLER)
            if slow:
                found.setdefault(fmt, {})[family(name)] = slow
    return found


def rows(results: dict[str, Any]) -> Iterator[str]:
    """One row a rewrite: its median and range over the models, for each format."""
    from edgevit.graph.rewrites import rewrites

    for one in rewrites():
        cells = []
        for fmt in FORMATS:
            found = [cells[fmt][one.name] for cells in results.values() if one.name in cells.get(fmt, {})]
            if not found:
                cells.append("–")
                continue
            ratios = [cell["ratio"] for cell in found]
            size = 100 * (float(np.median([cell["size"] for cell in found])) - 1)
            over = f"{len(ratios)} model{'' if len(ratios) == 1 else 's'}"
            text = f"**{np.median(ratios):.2f}** [{min(ratios):.2f}, {max(ratios):.2f}], {over}"
            cells.append(text + (f", file {size:+.1f} %" if abs(size) >= 0.1 else ""))
        if any(cell != "–" for cell in cells):
            yield f"| `{one.name}` | " + " | ".join(cells) + " |"


def render(results: dict[str, Any]) -> str:
    """The page."""
    header = "| rewrite | " + " | ".join(HEADS[fmt] for fmt in FORMATS) + " |\n| --- |" + " --- |" * len(FORMATS)
    lines = [
        "# What each rewrite is worth",
        "",
        "Generated by `python tools/bench/rewrites.py`: the artifact with all rewrites of its format against the same "
        "without one of them; live random weights, fp32, batch 1, one thread of an x86-64 host, all files of a model "
        "in one process, interleaved. The time without ÷ the time with it: the median over the models on which it "
        "matched, the smallest and the largest; and what it does to the file.",
        "",
        "Rewrites lean on each other (ExecuTorch's delegate is whole only with all of them), so ratios do not "
        "multiply. What slows a family down is left out when that family is exported "
        "(`edgevit/graph/rewrites/choice.json`).",
        "",
        header,
        *rows(results),
        "",
        "## Model by model",
        "",
        "| model | format | ratios |",
        "| --- | --- | --- |",
    ]
    for name, formats in results.items():
        for fmt, found in formats.items():
            each = ", ".join(
                f"`{key}` {one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for key, one in found.items()
            )
            lines.append(f"| `{name}` | {HEADS[fmt]} | {each or 'none of its own matches'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--target", "-t", action="append", choices=FORMATS)
    parser.add_argument("--runs", type=int, default=80)
    parser.add_argument("--results", type=Path, default=ROOT / "docs/measured/rewrites-measured.json")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/rewrites-measured.md", help="rendered from the results"
    )
    parser.add_argument("--render", action="store_true", help="only write the page and the choice")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in [] if arguments.render else arguments.names or MODELS:
        for fmt in arguments.target or FORMATS:
            results.setdefault(name, {})[fmt] = worth(name, fmt, arguments.runs)
            arguments.results.write_text(json.dumps(results, indent=1) + "\n")
            print(name, fmt, {key: round(one["ratio"], 3) for key, one in results[name][fmt].items()}, flush=True)
    arguments.page.write_text(render(results))
    (ROOT / "edgevit/graph/rewrites/choice.json").write_text(json.dumps(choice(results), indent=1) + "\n")


if __name__ == "__main__":
    main()
