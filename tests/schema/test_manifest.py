from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import BadFile
from edgevit.schema.manifest import MAX_BYTES, Manifest, parse_manifest

VALID = {
    "schema_version": 1,
    "edgevit": "0.1.0",
    "model": {
        "name": "m",
        "family": "ViT",
        "source": "m",
        "parameters": 3,
        "licence": "mit",
        "weights": {"kind": "random", "source": "seed 0"},
    },
    "target": {"backend": "onnx", "runtime": "onnxruntime-1", "precision": "fp32"},
    "toolchain": {"torch": "2.13.0"},
    "entry": "m.onnx",
    "input": {
        "name": "image",
        "kind": "image",
        "layout": "NHWC",
        "dtype": "uint8",
        "shape": [1, 8, 8, 3],
        "values": "0..255",
    },
    "preprocess": {
        "size": [8, 8],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "antialias": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "normalise_in_graph": True,
    },
    "output": {"name": "probabilities", "kind": "probabilities", "classes": 2},
    "labels": ["a", "é"],
}


def test_round_trip_keeps_everything() -> None:
    manifest = parse_manifest(json.dumps(VALID), "here")
    assert parse_manifest(manifest.to_json(), "there") == manifest
    assert parse_manifest(manifest.embedded(), "inside") == manifest


def test_embedded_leaves_out_what_only_the_making_tells() -> None:
    verdict = {"status": "not_run", "runtime": "x", "probes": 1}
    files = [{"path": "m.onnx", "bytes": 1, "sha256": "0" * 64}]
    whole = parse_manifest(json.dumps({**VALID, "verdict": verdict, "files": files}), "here")
    assert Manifest.model_validate_json(whole.embedded()) == parse_manifest(json.dumps(VALID), "here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 2}, "schema_version"),
        ({"labels": "ab"}, "labels"),
        ({"preprocess": {**VALID["preprocess"], "crop_pct": 0}}, "crop_pct"),
        ({"input": {**VALID["input"], "shape": [1, 2]}}, "shape"),
        ({"model": {**VALID["model"], "weights": {"kind": "stolen", "source": ""}}}, "kind"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(BadFile, match=says):
        parse_manifest(json.dumps({**VALID, **change}), "here")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 100_000, " " * (MAX_BYTES + 1)])
def test_not_a_manifest(text: str) -> None:
    with pytest.raises(BadFile):
        parse_manifest(text, "here")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(BadFile):
        parse_manifest(data, "here")
