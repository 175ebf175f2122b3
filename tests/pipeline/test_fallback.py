"""A rewrite that makes an artifact wrong is found, named and left out; the export goes on with a warning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import ConversionFailed
from edgevit.graph.rewrites import NONE, rewrites_for
from edgevit.pipeline import export as module
from edgevit.pipeline import judging
from edgevit.pipeline.fallback import Choice, without_culprit
from edgevit.pipeline.options import ExportOptions
from edgevit.schema.manifest import Lowering, Manifest, VerdictInfo

NAMES = tuple("abcdefghijk")


@pytest.mark.parametrize("culprit", NAMES)
def test_one_culprit_is_found_with_few_lowerings(culprit: str) -> None:
    tried: list[tuple[str, ...]] = []

    def works(asked: tuple[str, ...]) -> bool:
        tried.append(asked)
        return culprit not in asked

    assert without_culprit(NAMES, works) == Choice(tuple(one for one in NAMES if one != culprit), culprit)
    assert len(tried) <= 6


def test_where_the_plain_export_is_wrong_no_rewrite_is_blamed() -> None:
    assert without_culprit(NAMES, lambda asked: False) is None
    assert without_culprit((), lambda asked: True) is None


def test_two_culprits_leave_the_plain_export() -> None:
    assert without_culprit(NAMES, lambda asked: not {"c", "h"} & set(asked)) == Choice((NONE,), "")


def wrong_with(culprit: str, crash: bool) -> Any:
    """In place of a lowering: right unless the rewrite is among those that are applied."""

    def attempt(
        shared: Any, runtime: Any, manifest: Manifest, bundle: Path, exchange: dict[str, str], log: Path
    ) -> Manifest:
        asked = manifest.target.rewrites
        applied = asked if asked else tuple(one.name for one in rewrites_for("onnx", family=manifest.model.family))
        bad = culprit in applied
        (bundle / manifest.entry).write_bytes(b"model" + "".join(applied).encode())
        if bad and crash:
            raise ConversionFailed("IndexError: list index out of range")
        lowering = Lowering(seconds=1, peak_memory_bytes=1, rewrites=dict.fromkeys(applied, 1))
        verdict = VerdictInfo(
            status="failed" if bad else "passed",
            runtime="r",
            probes=6,
            error=0.1,
            tolerance=1e-6,
            discrimination=1e3,
            reasons=("off",) if bad else (),
        )
        return manifest.model_copy(update={"lowering": lowering, "verdict": verdict})

    return attempt


def replace_attempt(monkeypatch: pytest.MonkeyPatch, attempt: Any) -> None:
    for one in (module, judging):
        monkeypatch.setattr(one, "attempt", attempt)


@pytest.mark.parametrize("crash", [False, True])
def test_an_export_goes_on_without_the_culprit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: bool) -> None:
    replace_attempt(monkeypatch, wrong_with("fold_constants", crash))
    options = ExportOptions("shvit_digits", ("onnx",), out=tmp_path, cache=False)
    result = module.export(options)[0]
    assert result.error is None
    assert result.manifest is not None
    assert "fold_constants" not in result.manifest.target.rewrites
    assert len(result.manifest.target.rewrites) > 3
    assert "without the rewrite fold_constants" in result.manifest.lowering.note
    assert ("IndexError" if crash else "off") in result.manifest.lowering.note
    assert b"fold_constants" not in (tmp_path / "shvit_digits/onnx-fp32/shvit_digits.onnx").read_bytes()


def test_rewrites_that_were_asked_for_are_not_second_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_attempt(monkeypatch, wrong_with("fold_constants", False))
    options = ExportOptions("shvit_digits", ("onnx",), out=tmp_path, cache=False)
    result = module.export(dataclasses.replace(options, rewrites=("fold_constants",)))[0]
    assert result.error is not None
    assert "--rewrites none" in result.error.cure


def test_a_limit_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def attempt(*_: Any) -> Manifest:
        calls.append(1)
        error = ConversionFailed("it took longer than its limit of 1 s")
        error.at_limit = True
        raise error

    replace_attempt(monkeypatch, attempt)
    result = module.export(ExportOptions("shvit_digits", ("onnx",), out=tmp_path, cache=False))[0]
    assert isinstance(result.error, ConversionFailed)
    assert len(calls) == 1


def wrong_in_half(reason: str, keep: str) -> Any:
    """In place of a lowering: wrong unless what the pattern names stays in fp32."""

    def attempt(
        shared: Any, runtime: Any, manifest: Manifest, bundle: Path, exchange: dict[str, str], log: Path
    ) -> Manifest:
        made = wrong_with("", False)(shared, runtime, manifest, bundle, exchange, log)
        if keep not in manifest.target.keep_fp32:
            change = {"status": "failed", "reasons": (reason,)}
            made = made.model_copy(update={"verdict": made.verdict.model_copy(update=change)})
        return made

    return attempt


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_nothing_mends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    replace_attempt(monkeypatch, wrong_in_half("the error is large", "nothing of this name"))
    options = ExportOptions("shvit_digits", ("onnx",), out=tmp_path, cache=False, precision=precision)
    steps: list[str] = []
    result = module.export(options, lambda event: steps.append(event.detail))[0]
    assert result.error is not None
    assert "the error is large" in result.error.message
    assert any("products of matrices" in step for step in steps) == (precision == "fp16")


def test_a_model_in_half_precision_keeps_what_lies_between_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_attempt(monkeypatch, wrong_in_half("the error is large", "softmax"))
    options = ExportOptions("shvit_digits", ("onnx",), out=tmp_path, cache=False, precision="fp16", keep_fp32=("head",))
    result = module.export(options)[0]
    assert result.error is None
    assert result.manifest is not None
    kept = result.manifest.target.keep_fp32
    assert kept[0] == "head"
    assert {"softmax", "add"} <= set(kept)
    assert not {"linear", "matmul"} & set(kept)
    assert result.manifest.lowering.note == (
        "computes all but the products of matrices in fp32: otherwise the error is large"
    )
