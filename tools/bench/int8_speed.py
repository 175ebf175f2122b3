"""Our int8 artifact against our own fp32 one: time, file size and the share of integer work.

    python tools/bench/int8_speed.py [NAME...] [-t FORMAT...] [--runs 120] [--work DIR] [--build] [--render]

For each model and format exports both (normalised tensor in, logits out) from the same live random weights, the
int8 one with scales of 16 structured pictures; then measures them interleaved on one thread, spread over several
processes as tools/bench/export_speed.py does. A ratio is fp32 divided by int8, the median over neighbouring runs
with its 95 % bootstrap interval. Artifacts are kept in --work and used again; --build stops before measuring. Each
cell is added to docs/measured/int8-speed.json as it comes; the table between the markers of docs/quantization.md is
rendered from that file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgevit.bundle.read import read_bundle
from edgevit.pipeline.export import export
from edgevit.pipeline.options import ExportOptions
from edgevit.testing import structured_images
from tools.bench.export_speed import FORMATS, HEADS, measure
from tools.bench.timing import median_interval

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs/measured/int8-speed.json", ROOT / "docs/quantization.md"
MODELS = ("tiny_vit_5m_224", "shvit_s4", "mobilevitv2_100", "deit_tiny_patch16_224")


def pictures(work: Path) -> Path:
    folder = work / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(structured_images(16, (288, 288), 5)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def built(name: str, fmt: str, work: Path) -> dict[str, Path]:
    found = {}
    for precision in ("fp32", "int8"):
        folder = work / name / f"{fmt}-{precision}"
        if not folder.exists():
            calib = str(pictures(work)) if precision == "int8" else None
            options = ExportOptions(
                name, (fmt,), weights="random", input="tensor", output="logits", precision=precision, calib=calib,
                quantizer="minmax", verify=False, out=work, cache=False,
            )  # fmt: skip
            result = export(options)[0]
            if result.error:
                raise result.error
        found[precision] = folder
    return found


def cell(name: str, fmt: str, work: Path, runs: int) -> dict[str, Any]:
    bundles = {precision: read_bundle(folder) for precision, folder in built(name, fmt, work).items()}
    files = [(fmt, bundles[precision].entry) for precision in ("fp32", "int8")]
    times = measure(files, list(bundles["fp32"].manifest.input.shape), runs, 1)
    ratio, low, high = median_interval(times[:, 0] / times[:, 1])
    lowering = bundles["int8"].manifest.lowering
    return {
        "fp32_ms": float(np.median(times[:, 0]) * 1e3),
        "int8_ms": float(np.median(times[:, 1]) * 1e3),
        "ratio": ratio,
        "low": low,
        "high": high,
        "pairs": len(times),
        "integer_share": lowering.integer_share if lowering else None,
        "bytes": [file.stat().st_size for _, file in files],
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        "| model | runtime | fp32 | int8 | ratio | integer MACs | file | of fp32 |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name in MODELS:
        cells = {fmt: results[f"{name} {fmt}"] for fmt in FORMATS if f"{name} {fmt}" in results}
        best = max(cells, key=lambda fmt: cells[fmt]["ratio"], default="")
        for fmt, one in cells.items():
            ratio = f"{one['ratio']:.2f}× [{one['low']:.2f}, {one['high']:.2f}]"
            share, (plain, small) = one["integer_share"], one["bytes"]
            lines.append(
                f"| `{name}` | {HEADS[fmt]} | {one['fp32_ms']:.2f} ms | {one['int8_ms']:.2f} ms | "
                f"{'**' + ratio + '**' if fmt == best else ratio} | {share:.0%} | {small / 1e6:.1f} MB | "
                f"{small / plain:.2f} |"
            )
    return "\n".join(lines)


def render(results: dict[str, Any]) -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split("<!-- speed -->\n", 1)
    after = rest.split("<!-- /speed -->", 1)[1]
    PAGE.write_text(f"{before}<!-- speed -->\n{table(results)}\n<!-- /speed -->{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("-t", "--target", action="append", choices=FORMATS)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgevit-int8")
    parser.add_argument("--build", action="store_true", help="make the artifacts and stop")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in () if given.render else given.names or MODELS:
        for fmt in given.target or FORMATS:
            if given.build:
                built(name, fmt, given.work)
                continue
            results[f"{name} {fmt}"] = found = cell(name, fmt, given.work, given.runs)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(name, fmt, f"{found['ratio']:.2f}", flush=True)
    if not given.build:
        render(results)


if __name__ == "__main__":
    main()
