"""SHViT-S4 against MobileViTv2-1.0 in ONNX Runtime, by the protocol of SHViT's paper (arXiv 2401.16456, table 2).

    python tools/bench/shvit.py [--runs 200] [--batch 16]

One thread, batch 16, each model at the resolution of the paper (S4 at 256, MobileViTv2 at 256), random weights;
the paper's figures are 509 and 63 images a second on a Xeon Gold 5218R, 8.1 times. Both models are exported with
edgevit's rewrites for ONNX and by the plain call. The four sessions take turns in one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.timing import interleaved, median_interval

MODELS = {"shvit_s4": (256, 256), "mobilevitv2_100": (256, 256)}


def rewritten(program: Any) -> Any:
    """The captured program with edgevit's rewrites for ONNX, of whatever batch it was captured with."""
    import torch

    from edgevit.graph.fx import RuleInterpreter
    from edgevit.graph.prepare import apply_rewrites, graph_of
    from edgevit.graph.rewrites import rewrites_for

    chosen, core = rewrites_for("onnx"), graph_of(program)
    apply_rewrites(core, chosen)
    rules = {target: rule for one in chosen if one.rules for target, rule in one.rules().items()}

    class Deployed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.training = core, False

        def forward(self, image: torch.Tensor) -> Any:
            return RuleInterpreter(self.core, rules).run(image)

    return torch.export.export(Deployed(), program.example_inputs[0], strict=False)


def sessions(folder: Path, batch: int) -> dict[str, Callable[[], object]]:
    """What runs each model once, exported by the plain call and by ours."""
    import torch

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    from edgevit.graph.capture import reparameterize
    from edgevit.models.load import load_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    found: dict[str, Callable[[], object]] = {}
    for name, size in MODELS.items():
        module = load_model(name, weights="random").module.eval()
        example = torch.randn(batch, 3, *size)
        with torch.no_grad():
            ours = rewritten(torch.export.export(reparameterize(module), (example,), strict=False))
            for who, program in (("plain", torch.export.export(module, (example,))), ("ours", ours)):
                path = folder / f"{name}-{who}.onnx"
                torch.onnx.export(program, (), str(path), dynamo=True, external_data=False, verbose=False)
                session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                feed = {session.get_inputs()[0].name: example.numpy()}
                found[f"{name} {who}"] = lambda session=session, feed=feed: session.run(None, feed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    with tempfile.TemporaryDirectory() as folder:
        calls = sessions(Path(folder), arguments.batch)
        times = interleaved(list(calls.values()), arguments.runs, warm=3)
    for name, column in zip(calls, times.T, strict=True):
        seconds = float(np.median(column)) / arguments.batch
        print(f"{name:24} {1 / seconds:7.1f} images/s (mean {arguments.batch / column.mean():.1f})")
    for who in ("plain", "ours"):
        places = [list(calls).index(f"{name} {who}") for name in MODELS]
        ratio, low, high = median_interval(times[:, places[1]] / times[:, places[0]])
        print(f"SHViT-S4 ÷ MobileViTv2-1.0, {who}: {ratio:.2f} [{low:.2f}, {high:.2f}]; the paper: 8.1")


if __name__ == "__main__":
    main()
