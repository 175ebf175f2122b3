"""The bundle on this machine: the exact golden inputs, and answers that pass the verdict it was exported with.

A float model also has the same top 5 with probabilities within 1e-3; kernels of a quantized one round differently.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgevit.bundle.golden import golden_pictures, read_golden
from edgevit.bundle.loaded import load
from edgevit.data.images import read_picture
from edgevit.verify.judge import judge

BUNDLE = Path(os.environ.get("EDGEVIT_BUNDLE", Path(__file__).parents[1] / "model"))
MODEL = load(BUNDLE)
QUANTIZED = MODEL.bundle.manifest.quantization is not None
PICTURES = [read_picture(path) for path in golden_pictures(BUNDLE)]
GOLDEN = read_golden(BUNDLE)


@pytest.mark.parametrize("index", range(len(PICTURES)))
def test_each_picture(index: int) -> None:
    assert np.array_equal(MODEL.prepare(PICTURES[index])[0], GOLDEN.inputs[index])
    if QUANTIZED:
        return
    found = MODEL.predict(PICTURES[index], top=5)
    assert [one.index for one in found] == np.argsort(-GOLDEN.outputs[index], kind="stable")[:5].tolist()
    assert all(abs(one.score - GOLDEN.outputs[index][one.index]) < 1e-3 for one in found)


def test_the_verdict() -> None:
    found = np.stack([MODEL.scores(picture) for picture in PICTURES])
    verdict = judge(MODEL.bundle.manifest, GOLDEN.outputs, found, GOLDEN.exact)
    assert verdict.status == "passed", verdict.reasons
