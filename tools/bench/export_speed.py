"""Our artifact against the toolchain's own plain export: same weights, one process, interleaved.

    python tools/bench/export_speed.py [NAME...] [-t FORMAT...] [--runs 200] [--threads 1] [--render]

For each model and format builds the naive artifact (tools/bench/naive.py) and ours (normalised tensor
in, logits out, as the naive one has it) from the same live random weights, runs both and takes the
median of the ratios of neighbouring runs, naive divided by ours, with a 95 % bootstrap interval. Each
cell is added to docs/export-speed.json as it comes; docs/export-speed.md is rendered from that file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
FORMATS = ("onnx", "litert", "executorch")
MODELS = (
    "tiny_vit_5m_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_s",
    "mobilevitv2_100",
    "levit_128s",
    "efficientformer_l1",
    "pvt_v2_b0",
    "twins_svt_small",
    "pit_ti_224",
    "shvit_s4",
    "efficientformerv2_s1",
)
LISTED = MODELS[:10]
Run = Callable[[], object]


def onnx_runner(path: Path, example: np.ndarray, threads: int) -> Run:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: example})


def litert_runner(path: Path, example: np.ndarray, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]
    output = interpreter.get_output_details()[0]["index"]

    def run() -> object:
        interpreter.set_tensor(place, example)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def executorch_runner(path: Path, example: np.ndarray, threads: int) -> Run:
    """ExecuTorch counts the machine's cores, not its own: a pool left alone has threads spin for one core."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    tensor = torch.from_numpy(example)
    keep = (program, method)
    return lambda: keep[1].execute([tensor])


RUNNERS = {"onnx": onnx_runner, "litert": litert_runner, "executorch": executorch_runner}


def _measure(paths: list[str], fmt: str, shape: list[int], runs: int, threads: int, pipe: Any) -> None:
    """In a fresh process, tied to as many cores as threads: ExecuTorch's pool takes as many as it sees."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    from timing import interleaved

    example = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pipe.send(interleaved([RUNNERS[fmt](Path(path), example, threads) for path in paths], runs).tolist())


def measure(paths: list[Path], fmt: str, shape: list[int], runs: int, threads: int) -> np.ndarray:
    """Times of the files, interleaved: [runs, files]."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measure, args=([str(p) for p in paths], fmt, shape, runs, threads, there))
    process.start()
    times = np.array(here.recv())
    process.join()
    return times


def outside(path: Path) -> dict[str, int]:
    """Operators outside a delegate of an ExecuTorch file, and its delegate calls."""
    from edgevit.backends.base import backend_of

    return dict(backend_of(path).operators(path)) if path.suffix == ".pte" else {}


def compare(name: str, fmt: str, runs: int, threads: int) -> dict[str, Any]:
    """One cell."""
    import naive
    import torch
    from timing import median_interval

    import edgevit
    from edgevit.bundle.read import read_bundle
    from edgevit.models.load import load_model

    loaded = load_model(name, weights="random")
    example = torch.randn(1, 3, *loaded.preprocessing.size)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        options: dict[str, Any] = {"weights": "random", "input": "tensor", "output": "logits", "cache": False}
        result = edgevit.export(name, [fmt], out=out / "ours", verify=True, jobs=1, **options)[0]
        if result.error is not None or result.path is None:
            return {"error": f"ours: {result.error.message if result.error else '?'}"}
        ours = read_bundle(result.path).entry
        try:
            with torch.no_grad():
                plain = naive.CALLS[fmt](loaded.module.eval(), example, out)
        except Exception as error:
            return {"error": f"naive: {type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        times = measure([plain, ours], fmt, list(example.shape), runs, threads)
        ratio, low, high = median_interval(times[:, 0] / times[:, 1])
        return {
            "ratio": ratio,
            "low": low,
            "high": high,
            "naive_ms": float(np.median(times[:, 0]) * 1e3),
            "ours_ms": float(np.median(times[:, 1]) * 1e3),
            "naive_bytes": plain.stat().st_size,
            "ours_bytes": ours.stat().st_size,
            "naive_operators": outside(plain),
            "ours_operators": outside(ours),
        }


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "error" in found:
        return "✗"
    return f"**{found['ratio']:.2f}** [{found['low']:.2f}, {found['high']:.2f}] {found['ours_ms']:.1f} ms"


def render(results: dict[str, dict[str, Any]], threads: int) -> str:
    """The page."""
    medians = []
    for fmt in FORMATS:
        ratios = [results[n][fmt]["ratio"] for n in LISTED if "ratio" in results.get(n, {}).get(fmt, {})]
        if ratios:
            medians.append(f"{fmt} {np.median(ratios):.2f} over {len(ratios)} models")
    lines = [
        "# Speed against the plain export",
        "",
        "Generated by `python tools/bench/export_speed.py`: the toolchain's own documented call against edgevit's "
        f"export of the same live random weights, fp32, batch 1, {threads} thread, both in one process, interleaved. "
        "Bold is the median of naive ÷ ours with its 95 % bootstrap interval, then our median time on an x86-64 host.",
        "",
        "Median of the first ten rows: " + "; ".join(medians) + ".",
        "",
        "| model | ONNX Runtime | LiteRT | ExecuTorch | ExecuTorch, outside the delegate: naive | ours |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        pte = found.get("executorch", {})
        left = [_outside_text(pte.get(f"{who}_operators", {})) for who in ("naive", "ours")]
        lines.append(
            f"| `{name}` | " + " | ".join(cell(found.get(fmt)) for fmt in FORMATS) + f" | {left[0]} | {left[1]} |"
        )
    bad = [(n, f, c["error"]) for n, found in results.items() for f, c in found.items() if "error" in c]
    if bad:
        lines += ["", "## What could not be compared", "", *(f"- `{n}` {f}: {why}" for n, f, why in bad)]
    return "\n".join(lines) + "\n"


def _outside_text(operators: dict[str, int]) -> str:
    if not operators:
        return "–"
    calls = sum(count for name, count in operators.items() if name.startswith("delegate"))
    rest = {name: count for name, count in operators.items() if not name.startswith("delegate")}
    names = ", ".join(f"{name.removeprefix('aten::').partition('.')[0]} {count}" for name, count in rest.items())
    return f"{calls} calls; {names or 'nothing'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--target", "-t", action="append", choices=FORMATS)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=ROOT / "docs/export-speed.json")
    parser.add_argument("--render", action="store_true", help="only render the page from the results")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in [] if arguments.render else arguments.names or MODELS:
        for fmt in arguments.target or FORMATS:
            results.setdefault(name, {})[fmt] = compare(name, fmt, arguments.runs, arguments.threads)
            arguments.results.write_text(json.dumps(results, indent=1) + "\n")
            found = results[name][fmt]
            print(name, fmt, cell(found) if "ratio" in found else found["error"], flush=True)
            if fmt == "executorch" and "ratio" in found:
                print(
                    "   ",
                    _outside_text(found["naive_operators"]),
                    "→",
                    _outside_text(found["ours_operators"]),
                    flush=True,
                )
    page = arguments.results.with_suffix(".md")
    page.write_text(render(results, arguments.threads))
    print(page)


if __name__ == "__main__":
    main()
