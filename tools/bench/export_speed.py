"""Our artifact against the toolchain's own plain export: same weights, one process, interleaved.

    python tools/bench/export_speed.py [NAME...] [-t FORMAT...] [--runs 200] [--threads 1] [--work DIR] [--render]

First builds, for each model and format, the naive artifact (tools/bench/naive.py) and ours (normalised tensor
in, logits out, as the naive one has it) from the same live random weights, two at a time; then measures, one
thing at a time: the median of the ratios of neighbouring runs, naive divided by ours, with a 95 % bootstrap
interval; the part that is delegated; sizes; peak memory; and our three formats against each other. Artifacts
are kept in --work and used again. Each cell is added to docs/measured/export-speed.json as it comes;
docs/export-speed.md is rendered from that file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
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
PROCESSES = 4
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


IMPORTS = {
    "onnx": ("onnxruntime",),
    "litert": ("ai_edge_litert.interpreter",),
    "executorch": ("executorch.runtime", "executorch.extension.pybindings.portable_lib"),
}
HEADS = {"onnx": "ONNX Runtime", "litert": "LiteRT", "executorch": "ExecuTorch"}
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "executorch": ".pte"}
RUNNERS = {"onnx": onnx_runner, "litert": litert_runner, "executorch": executorch_runner}


def _measure(files: list[tuple[str, str]], shape: list[int], runs: int, threads: int, pipe: Any) -> None:
    """In a fresh process, tied to as many cores as threads."""
    _quiet()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    from tools.bench.timing import interleaved

    example = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pipe.send(interleaved([RUNNERS[fmt](Path(path), example, threads) for fmt, path in files], runs).tolist())


def _quiet() -> None:
    """Native code prints when a runtime starts; a process that fails closes its pipe, which is seen."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _memory(fmt: str, path: str, shape: list[int], pipe: Any) -> None:
    """What loading a file and running it three times adds to a process that has the runtime already."""
    _quiet()
    example = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for module in IMPORTS[fmt]:
        import_module(module)
    before = _resident("VmRSS")
    run = RUNNERS[fmt](Path(path), example, 1)
    for _ in range(3):
        run()
    pipe.send(_resident("VmHWM") - before)


def apart(target: Callable[..., None], *arguments: Any) -> Any:
    """What a function sends from a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def measure(files: list[tuple[str, Path]], shape: list[int], runs: int, threads: int) -> np.ndarray:
    """Times of files, (format, path) each, interleaved: [runs, files] seconds.

    Where a file's memory happens to lie moves its time by a few percent for the life of a process, so the runs
    are spread over several processes, which load the files in different orders.
    """
    found = []
    for turn in range(PROCESSES):
        order = np.roll(np.arange(len(files)), turn)[:: 1 - 2 * (turn % 2)]
        given = [(files[place][0], str(files[place][1])) for place in order]
        times = np.array(apart(_measure, given, shape, -(-runs // PROCESSES), threads))
        found.append(times[:, np.argsort(order)])
    return np.concatenate(found)


def placed(fmt: str, path: Path) -> dict[str, Any]:
    """How much of a file is delegated, in how many pieces, and what stays outside."""
    from edgevit.backends.process.jobs import placement_apart

    found = placement_apart(fmt, path)
    if found is None:
        return {}
    outside = {one["operator"]: one["count"] for one in found["operators"] if not one["delegated"]}
    return {"pieces": found["delegates"], "share": found["delegated_share"], "outside": outside}


def build_plain(name: str, fmt: str, out: Path) -> None:
    """The toolchain's own call; in a process of its own, which is this script's."""
    import torch

    from edgevit.models.load import load_model
    from tools.bench import naive

    loaded = load_model(name, weights="random")
    with torch.no_grad():
        naive.CALLS[fmt](loaded.module.eval(), torch.randn(1, 3, *loaded.preprocessing.size), out)


def plain_file(name: str, fmt: str, home: Path) -> Path:
    out = home / "naive"
    path = out / f"naive{SUFFIXES[fmt]}"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, name, "-t", fmt, "--plain", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "rror" in line] or done.stderr.splitlines() or ["?"]
            raise RuntimeError("naive: " + re.sub(r"\S*/site-packages/", "", said[-1])[:160])
    return path


def our_file(name: str, fmt: str, home: Path) -> Path:
    import edgevit
    from edgevit.bundle.read import read_bundle

    options: dict[str, Any] = {"weights": "random", "input": "tensor", "output": "logits", "jobs": 1}
    result = edgevit.export(name, [fmt], out=home / "ours", **options)[0]
    if result.error is not None or result.path is None:
        raise RuntimeError(f"ours: {result.error.message if result.error else '?'}")
    return read_bundle(result.path).entry


def build(cell: tuple[str, str], work: Path) -> dict[str, Path | str]:
    """Both artifacts of one cell, or what went wrong."""
    name, fmt = cell
    home, found = work / name / fmt, dict[str, "Path | str"]()
    for who, make in (("ours", our_file), ("naive", plain_file)):
        try:
            found[who] = make(name, fmt, home)
        except RuntimeError as error:
            found["error"] = str(error)
    print("built", name, fmt, found.get("error", ""), flush=True)
    return found


def compare(fmt: str, plain: Path, ours: Path, shape: list[int], runs: int, threads: int) -> dict[str, Any]:
    """One cell."""
    from tools.bench.timing import median_interval

    times = measure([(fmt, plain), (fmt, ours)], shape, runs, threads)
    ratio, low, high = median_interval(times[:, 0] / times[:, 1])
    found: dict[str, Any] = {"ratio": ratio, "low": low, "high": high}
    for place, (who, path) in enumerate((("naive", plain), ("ours", ours))):
        found[f"{who}_ms"] = float(np.median(times[:, place]) * 1e3)
        found[f"{who}_bytes"] = path.stat().st_size
        found[f"{who}_memory"] = apart(_memory, fmt, str(path), shape)
        found[f"{who}_placed"] = placed(fmt, path)
    return found


def across(files: dict[str, Path], shape: list[int], runs: int, threads: int) -> dict[str, float]:
    """Our formats of one model against each other: milliseconds, interleaved."""
    times = np.median(measure(list(files.items()), shape, runs, threads), axis=0)
    return {fmt: float(ms * 1e3) for fmt, ms in zip(files, times, strict=True)}


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "error" in found:
        return "✗"
    return f"**{found['ratio']:.2f}** [{found['low']:.2f}, {found['high']:.2f}] {found['ours_ms']:.1f} ms"


def _delegated(found: dict[str, Any]) -> str:
    if not found:
        return "–"
    rest = ", ".join(f"{name} {count}" for name, count in found["outside"].items()) or "nothing"
    pieces = f"{found['pieces']} piece{'' if found['pieces'] == 1 else 's'}"
    return f"{found['share']:.1%} in {pieces}; outside: {rest}"


def _sizes(found: dict[str, Any] | None) -> str:
    if not found or "error" in found:
        return "–"
    grown = 100 * (found["ours_bytes"] / found["naive_bytes"] - 1)
    memory = [found[f"{who}_memory"] / 2**20 for who in ("naive", "ours")]
    return f"{found['ours_bytes'] / 1e6:.1f} MB ({grown:+.1f} %); {memory[0]:.0f} → {memory[1]:.0f} MiB"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def render(results: dict[str, dict[str, Any]], threads: int) -> str:
    """The page."""
    medians = []
    for fmt in FORMATS:
        ratios = [results[n][fmt]["ratio"] for n in LISTED if "ratio" in results.get(n, {}).get(fmt, {})]
        if ratios:
            medians.append(f"{HEADS[fmt]} **{np.median(ratios):.2f}** over {len(ratios)} models")
    cells = [(n, f, c) for n, found in results.items() for f, c in found.items() if f in FORMATS and "ratio" in c]
    worst = min(cells, key=lambda one: one[2]["ratio"])
    largest = max(cells, key=lambda one: one[2]["ours_bytes"] / one[2]["naive_bytes"])
    speeds = []
    for name, found in results.items():
        times = found.get("across", {})
        best = f"{times['executorch'] / min(times.values()):.2f}" if "executorch" in times else "–"
        speeds.append([f"`{name}`", *(cell(found.get(fmt)) for fmt in FORMATS), best])
    placements = [
        [
            f"`{name}`",
            HEADS[fmt],
            *(_delegated(found.get(fmt, {}).get(f"{who}_placed", {})) for who in ("naive", "ours")),
        ]
        for name, found in results.items()
        for fmt in ("litert", "executorch")
        if "ratio" in found.get(fmt, {})
    ]
    lines = [
        "# Speed against the plain export",
        "",
        "Generated by `python tools/bench/export_speed.py`: the toolchain's own documented call against edgevit's "
        f"export of the same live random weights, fp32, batch 1, {threads} thread, both in one process, interleaved, "
        f"at least 200 runs each over {PROCESSES} processes. Bold is the median of naive ÷ ours with its 95 % "
        "bootstrap interval, then our median time on an x86-64 host. The last column is our ExecuTorch file's time "
        "by that of our fastest of the three.",
        "",
        f"Median of the first ten rows: {'; '.join(medians)}. The lowest ratio is {worst[2]['ratio']:.2f} "
        f"(`{worst[0]}`, {HEADS[worst[1]]}); the file that grew most is {largest[2]['ours_bytes'] / 1e6:.1f} MB after "
        f"{largest[2]['naive_bytes'] / 1e6:.1f} MB (`{largest[0]}`, {HEADS[largest[1]]}).",
        "",
        *_table(["model", *(HEADS[fmt] for fmt in FORMATS), "ExecuTorch ÷ best"], speeds),
        "",
        "## What is delegated",
        "",
        "The share of the multiply-accumulates that XNNPACK executes, in how many pieces, and the operators between "
        "those. `edgevit inspect FILE` says the same of any file, and why. ONNX Runtime executes everything with its "
        "own CPU kernels.",
        "",
        *_table(["model", "runtime", "plain export", "edgevit"], placements),
        "",
        "## Size and memory",
        "",
        "Our file's size and how it differs from the plain one's; and the resident memory that loading and running "
        "the plain and our file adds at its peak. ExecuTorch loads a delegate's weights and packs them into XNNPACK's "
        "layout: where all of a model is one delegate, both are there at once for a moment.",
        "",
        *_table(
            ["model", *(HEADS[fmt] for fmt in FORMATS)],
            [[f"`{name}`", *(_sizes(found.get(fmt)) for fmt in FORMATS)] for name, found in results.items()],
        ),
    ]
    bad = [(n, f, c["error"]) for n, found in results.items() for f, c in found.items() if "error" in c]
    if bad:
        lines += ["", "## What could not be compared", "", *(f"- `{n}`, {HEADS[f]}: {why}" for n, f, why in bad)]
    return "\n".join(lines) + "\n"


def input_shape(name: str) -> list[int]:
    from edgevit.models.registry import find_model

    return [1, 3, *find_model(name).preprocessing.size]


def run(arguments: argparse.Namespace, results: dict[str, dict[str, Any]], work: Path) -> None:
    names, formats = arguments.names or MODELS, arguments.target or FORMATS
    cells = [(name, fmt) for name in names for fmt in formats]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = dict(zip(cells, pool.map(lambda one: build(one, work), cells), strict=True))
    for name in names:
        shape = input_shape(name)
        mine = results.setdefault(name, {})
        for fmt in formats:
            files = built[name, fmt]
            if "error" in files:
                mine[fmt] = {"error": files["error"]}
            else:
                plain, ours = Path(files["naive"]), Path(files["ours"])
                mine[fmt] = compare(fmt, plain, ours, shape, arguments.runs, arguments.threads)
            print(name, fmt, cell(mine[fmt]), flush=True)
        ours_only = {fmt: Path(built[name, fmt]["ours"]) for fmt in formats if "ours" in built[name, fmt]}
        if len(ours_only) == len(FORMATS):
            mine["across"] = across(ours_only, shape, arguments.runs, arguments.threads)
        arguments.results.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--target", "-t", action="append", choices=FORMATS)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keep the artifacts here, and use those that are there")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/measured/export-speed.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/export-speed.md", help="rendered from the results")
    parser.add_argument("--render", action="store_true", help="only render the page from the results")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        build_plain(arguments.names[0], arguments.target[0], arguments.plain)
        return
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    if not arguments.render:
        with tempfile.TemporaryDirectory() as scratch:
            run(arguments, results, arguments.work or Path(scratch))
    arguments.page.write_text(render(results, arguments.threads))
    print(arguments.page)


if __name__ == "__main__":
    main()
