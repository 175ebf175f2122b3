"""Core ML parity on Linux: one model of every family, from the saved file, in fp32 and fp16.

    python tools/coreml_parity.py [NAME...] [--results FILE] [--page FILE] [--render]

Exports the cheapest member of each family with live random weights, and the bundled digits models with
their trained ones, logits as output; executes the saved package with the evaluator on the golden pictures
and compares with PyTorch. What fp16 costs the same model in PyTorch itself stands beside it. Each model is
added to the results file as it comes; docs/coreml-parity.md is rendered from that file.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgevit
from edgevit.bundle.golden import read_golden
from edgevit.bundle.read import read_bundle
from edgevit.core.digest import package_versions
from edgevit.mil.evaluate import load_program
from edgevit.mil.runner import predict
from edgevit.models.load import LoadedModel, load_model
from edgevit.models.registry import find_model
from edgevit.verify.hazards import bundle_hazards
from edgevit.verify.probes import probe_pictures, timm_transform
from tools.sweep import representatives

ROOT = Path(__file__).parents[1]
PRECISIONS = ("fp32", "fp16")
LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.999}
MOST_ERROR = {"fp32": 5e-6, "fp16": 4e-3}
DIGITS = ("tinyvit", "shvit", "mobilevitv2", "efficientformerv2", "deit")
PACKAGES = ("torch", "timm", "coremltools", "numpy")


def everything() -> list[str]:
    """One model of every family, and the bundled ones."""
    return [*representatives(), *(f"{name}_digits" for name in DIGITS)]


def measure(bundle_path: Path) -> dict[str, Any]:
    """A bundle's answers to its golden inputs against PyTorch's, over all pictures at once."""
    bundle = read_bundle(bundle_path)
    program = load_program(bundle.entry)
    inputs = read_golden(bundle.path).inputs
    right = read_golden(bundle.path).outputs.astype(np.float64)
    found = np.concatenate([predict(program, inputs[i : i + 1]) for i in range(len(inputs))]).astype(np.float64)
    cosines = (found * right).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
    report = bundle_hazards(bundle)
    return {
        "operations": len(program.steps),
        "cosine_lost": float(1 - cosines.min()),
        "relative_l2": relative(found, right),
        "hazards": sorted({hazard.kind for hazard in report.hazards}),
    }


def relative(found: np.ndarray, right: np.ndarray) -> float:
    """Relative L2 difference."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def in_torch(loaded: LoadedModel) -> dict[str, float]:
    """What rounding costs PyTorch itself, eager on the CPU: fp32 against fp64, fp16 against fp32."""
    import torch
    from PIL import Image

    transform = timm_transform(loaded.preprocessing)
    batch = torch.stack([transform(Image.fromarray(one)) for one in probe_pictures(loaded.preprocessing.size)])
    with torch.no_grad():
        exact = copy.deepcopy(loaded.module).double()(batch.double()).numpy()
        single = loaded.module(batch).double().numpy()
        half = copy.deepcopy(loaded.module).half()(batch.half()).double().numpy()
    return {"fp32": relative(single, exact), "fp16": relative(half, single)}


def run(name: str) -> dict[str, Any]:
    """Both precisions of one model, or why there is none."""
    weights = "pretrained" if find_model(name).origin == "bundled" else "random"
    found: dict[str, Any] = {"torch": in_torch(load_model(name, weights=weights))}
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as out:
            result = edgevit.export(
                name, ["coreml"], weights=weights, precision=precision, output="logits", out=out, cache=False, jobs=1
            )[0]
            bad = result.error.message if result.error else ""
            found[precision] = measure(result.path) if result.path else {"error": bad}
            if result.path:
                found[precision]["verdict"] = bad or "passed"
    return found


def good(found: dict[str, Any], precision: str) -> bool:
    """Whether one cell is within the limits."""
    return "error" not in found and found["cosine_lost"] < 1 - LEAST_COSINE[precision]


def cells(found: dict[str, Any]) -> list[str]:
    """Error and lost cosine, for the table."""
    if "error" in found:
        return ["✗", "✗"]
    return [f"{found['relative_l2']:.1e}", f"{found['cosine_lost']:.0e}" if found["cosine_lost"] > 0 else "0"]


def render(results: dict[str, Any]) -> str:
    """The page."""
    each = [(name, p, found[p]) for name, found in results.items() for p in PRECISIONS]
    within = sum(good(found, p) for _, p, found in each)
    have = [found for found in results.values() if not any("error" in found[p] for p in PRECISIONS)]
    low = {p: sum(found[p]["relative_l2"] <= MOST_ERROR[p] for found in have) for p in PRECISIONS}
    ratios = sorted(found["fp16"]["relative_l2"] / found["torch"]["fp16"] for found in have)
    versions = ", ".join(f"{package} {version}" for package, version in package_versions(PACKAGES).items())
    lines = [
        "# Core ML on Linux: parity of one model of every family",
        "",
        "Generated by `python tools/coreml_parity.py`: live random weights (the digits models: their trained ones), "
        "six structured pictures, logits. The saved `.mlpackage` is executed operation by operation by edgevit's "
        "evaluator and compared with the original module in PyTorch. *error* is the relative L2 difference over all "
        "pictures, *1 − cosine* the worst picture's. *PyTorch's own* is what rounding costs the same model in PyTorch "
        "(eager, CPU): fp32 against fp64, and `module.half()` against fp32. Random weights amplify rounding more than "
        "trained ones do; an error is the export's fault where it is much larger than PyTorch's own. The last column "
        "lists what `--hazards` finds in the fp16 program.",
        "",
        f"**Cosine above {LEAST_COSINE['fp32']} in fp32 and above {LEAST_COSINE['fp16']} in fp16: {within} of "
        f"{len(each)} cells.** Error at most {MOST_ERROR['fp32']:g} in fp32: {low['fp32']} of {len(have)} models; at "
        f"most {MOST_ERROR['fp16']:g} in fp16: {low['fp16']} of {len(have)}. The fp16 error divided by PyTorch's own: "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}, median {ratios[len(ratios) // 2]:.2f}. {versions}.",
        "",
        "| family | model | operations | fp32 error | PyTorch's own | 1 − cosine "
        "| fp16 error | PyTorch's own | 1 − cosine | hazards |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for name, found in results.items():
        row = [find_model(name).family, f"`{name}`", str(found["fp32"].get("operations", "–"))]
        for precision in PRECISIONS:
            error, lost = cells(found[precision])
            row += [error, f"{found['torch'][precision]:.1e}", lost]
        row.append(", ".join(found["fp16"].get("hazards", [])) or "–")
        lines.append("| " + " | ".join(row) + " |")
    bad = [(name, p, found["error"]) for name, p, found in each if "error" in found]
    if bad:
        lines += ["", "## What does not convert, and why", ""]
        lines += [f"- `{name}` {p}: {why}" for name, p, why in bad]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/measured/coreml-parity.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/coreml-parity.md", help="rendered from the results")
    parser.add_argument("--render", action="store_true", help="only render the page from the results")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in [] if arguments.render else arguments.names or everything():
        started = time.monotonic()
        results[name] = run(name)
        arguments.results.write_text(json.dumps(results, indent=1) + "\n")
        line = {p: cells(results[name][p]) for p in PRECISIONS}
        print(name, line, f"{time.monotonic() - started:.0f} s", flush=True)
    arguments.page.write_text(render(results))
    print(arguments.page)


if __name__ == "__main__":
    main()
