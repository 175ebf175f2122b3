"""How long executing a saved Core ML program takes, against PyTorch eager, one image, interleaved.

    python tools/bench/evaluator.py [MODEL] [--precision fp32] [--runs 60] [--threads 1]

Prints the median of the ratios of neighbouring runs with a 95 % bootstrap interval; both sides use the
same threads in the same process. Loading the package, which decompresses weights, is timed apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial

import numpy as np

import edgevit
from edgevit.bundle.golden import read_golden
from edgevit.bundle.read import read_bundle
from edgevit.mil.evaluate import load_program
from edgevit.mil.runner import predict
from edgevit.models.load import load_model
from tools.bench.timing import interleaved, median_interval


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny_vit_5m_224")
    parser.add_argument("--precision", choices=("fp32", "fp16"), action="append")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loaded = load_model(arguments.model, weights="random")
    example = torch.randn(1, 3, *loaded.preprocessing.size)
    for precision in arguments.precision or ("fp32", "fp16"):
        with tempfile.TemporaryDirectory() as out, torch.inference_mode():
            result = edgevit.export(
                arguments.model, ["coreml"], weights="random", precision=precision, out=out, cache=False, verify=False
            )[0]
            if result.path is None:
                raise SystemExit(str(result.error))
            bundle = read_bundle(result.path)
            started = time.perf_counter()
            program = load_program(bundle.entry)
            loading = time.perf_counter() - started
            image = read_golden(bundle.path).inputs[:1]
            pairs = interleaved([partial(predict, program, image), partial(loaded.module, example)], arguments.runs)
        ratio, low, high = median_interval(pairs[:, 0] / pairs[:, 1])
        ours, eager = np.median(pairs, axis=0) * 1e3
        print(
            f"{arguments.model} {precision}: {ratio:.2f} x PyTorch eager [{low:.2f}, {high:.2f}] "
            f"({ours:.1f} ms and {eager:.1f} ms, {arguments.threads} thread, {len(program.steps)} operations, "
            f"loading {loading:.2f} s)"
        )


if __name__ == "__main__":
    main()
