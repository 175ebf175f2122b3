"""The bundle on this machine: the exact golden inputs, the same top 5, probabilities within 1e-3."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgevit.bundle.deployed import load
from edgevit.bundle.golden import FOLDER, golden_pictures, read_tensor
from edgevit.data.images import read_picture

BUNDLE = Path(os.environ.get("EDGEVIT_BUNDLE", Path(__file__).parents[1] / "model"))
MODEL = load(BUNDLE)
PICTURES = golden_pictures(BUNDLE)


@pytest.mark.parametrize("index", range(len(PICTURES)))
def test_golden(index: int) -> None:
    picture = read_picture(PICTURES[index])
    inputs = read_tensor(BUNDLE / FOLDER / "inputs.safetensors", "inputs")
    outputs = read_tensor(BUNDLE / FOLDER / "outputs.safetensors", "outputs")[index]
    assert np.array_equal(MODEL.prepare(picture)[0], inputs[index])
    found = MODEL.predict(picture, top=5)
    assert [one.index for one in found] == np.argsort(-outputs, kind="stable")[:5].tolist()
    assert all(abs(one.score - outputs[one.index]) < 1e-3 for one in found)
