"""A loaded bundle: pictures of every kind in, from any number of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgevit
from edgevit.backends.onnx.backend import load as load_onnx
from edgevit.bundle.golden import golden_pictures
from edgevit.core import own_process
from edgevit.errors import EnvironmentIncomplete, MissingDependency, import_failed
from tests.conftest import FORMATS, Exported


@pytest.mark.parametrize("target", FORMATS)
def test_one_model_in_six_threads(exported: Exported, target: str) -> None:
    model, wrong, errors = edgevit.load(exported("tinyvit_digits", target), check=False), [], []
    pictures = [Image.open(path).convert("RGB") for path in golden_pictures(model.bundle.path)]
    start = threading.Barrier(6)
    expected = [edgevit.load(model.bundle.path, check=False).scores(one) for one in pictures]

    def work(shift: int) -> None:
        start.wait()  # the first call loads the model; six at once must not
        try:
            for turn in range(12):
                number = (turn + shift) % len(pictures)
                if not np.allclose(model.scores(pictures[number]), expected[number], atol=1e-6):
                    wrong.append(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not wrong


@pytest.mark.parametrize("target", FORMATS)
def test_an_earlier_answer_is_not_changed_by_a_later_one(exported: Exported, target: str) -> None:
    model = edgevit.load(exported("tinyvit_digits", target), check=False)
    first, second = golden_pictures(model.bundle.path)[:2]
    kept = model.scores(first)
    copy = kept.copy()
    model.scores(second)
    assert np.array_equal(kept, copy)
    assert (kept.flags.writeable and kept.flags.owndata) or kept.base is not None


def test_every_kind_of_picture(exported: Exported) -> None:
    model = edgevit.load(exported(), check=False)
    path = golden_pictures(model.bundle.path)[1]
    array = np.asarray(Image.open(path).convert("RGB"))
    expected = model.predict(path)
    for given in (str(path), path.read_bytes(), Image.open(path), array, np.dstack([array, array[..., 0]])):
        assert model.predict(given) == expected
    with path.open("rb") as stream:
        assert model.predict(stream) == expected
    assert model.predict([path, array], top=1) == [expected[:1], expected[:1]]


def test_a_host_s_descriptors_and_environment_are_left_alone(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import os

    monkeypatch.setattr(own_process, "_own_process", False)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    load_onnx(edgevit.load(exported(), check=False).bundle.entry)
    assert "ORT_DISABLE_TELEMETRY" not in os.environ
    with own_process.silenced():
        os.write(2, b"the host's own line\n")
    assert "the host's own line" in capfd.readouterr().err
    own_process.claim_process()
    with own_process.silenced():
        os.write(2, b"native chatter\n")
    assert "native chatter" not in capfd.readouterr().err


def test_a_missing_runtime_and_a_broken_one() -> None:
    missing = import_failed(ModuleNotFoundError("no", name="nowhere"), "nowhere", "running .x files", extra="runtime")
    assert isinstance(missing, MissingDependency) and missing.cure == "pip install 'edgevit[runtime]'"
    broken = import_failed(ImportError("GLIBC_2.99 not found\nmore"), "numpy", "running .x files", extra="runtime")
    assert type(broken) is EnvironmentIncomplete
    assert "is installed and cannot be imported" in broken.message and broken.where == "GLIBC_2.99 not found"


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_a_runtime_is_brought_by_the_extra_without_torch(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    model = edgevit.load(exported("tinyvit_digits", target), check=False)
    for module in ("onnxruntime", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(EnvironmentIncomplete):
        model.predict(golden_pictures(Path(model.bundle.path))[0])
