"""Damaged model files: inspecting one never crashes and never lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevit.backends.base import backend_of, find_backend
from edgevit.errors import BadFile
from tests.conftest import FORMATS


def model_file(bundle: Path) -> Path:
    found = next(path for path in bundle.iterdir() if path.suffix in (".onnx", ".tflite", ".pte", ".mlpackage"))
    return found / "Data/com.apple.CoreML/model.mlmodel" if found.is_dir() else found


@pytest.mark.parametrize("target", FORMATS)
def test_a_damaged_file_is_refused_or_read(exported: Callable[..., Path], tmp_path: Path, target: str) -> None:
    bundle = exported("tinyvit_digits", target)
    source = model_file(bundle)
    original = source.read_bytes()
    if target == "coreml":
        package = tmp_path / "m.mlpackage"
        shutil.copytree(source.parents[2], package)
        path, written = package, package / source.relative_to(source.parents[2])
    else:
        path = written = tmp_path / source.name
    backend = find_backend(target)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(st.integers(0, min(len(original), 40_000) - 1), st.integers(0, 255)), min_size=1, max_size=20
        ),
        st.integers(0, len(original)),
    )
    def damage(edits: list[tuple[int, int]], length: int) -> None:
        data = bytearray(original)
        for at, value in edits:
            data[at] = value
        written.write_bytes(bytes(data[:length]))
        readers = (
            backend.read_embedded,
            backend.operators,
            *([backend.placement] if target in ("executorch", "onnx") else []),
        )
        # LiteRT's runtime says where operators run: that happens in a process of its own.
        for reader in readers:
            try:
                reader(path)
            except (BadFile, IndexError, KeyError, UnicodeDecodeError) as error:
                assert isinstance(error, BadFile), f"{reader.__name__}: {error!r}"

    damage()


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".pte"])
@pytest.mark.parametrize("data", [b"", b"x", b"\x00" * 64, b"not a model at all" * 10])
def test_what_is_no_model(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(data)
    backend = backend_of(path)
    try:
        assert backend.read_embedded(path) is None
    except BadFile:
        pass
    with pytest.raises(BadFile):
        backend.load(path)


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "m.h5").touch()
    with pytest.raises(BadFile, match="not a model file"):
        backend_of(tmp_path / "m.h5")
