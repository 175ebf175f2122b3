"""What `export` says about files that are good but slow."""

from __future__ import annotations

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.cli.export import _warn_of_fallbacks
from edgevit.pipeline.export import ExportResult
from tests.conftest import Exported


@pytest.mark.parametrize(("share", "warned"), [(0.5, True), (0.9499, True), (0.95, False), (1.0, False), (None, False)])
def test_little_delegation_is_a_warning(
    exported: Exported, capsys: pytest.CaptureFixture[str], share: float | None, warned: bool
) -> None:
    path = exported("tinyvit_digits", "onnx")
    manifest = read_bundle(path).manifest
    assert manifest.lowering is not None
    lowering = manifest.lowering.model_copy(update={"delegated_share": share})
    result = ExportResult("onnx-fp32", path, manifest.model_copy(update={"lowering": lowering}))
    _warn_of_fallbacks([result])
    said = capsys.readouterr().err.replace("\n", "")
    assert ("edgevit inspect" in said) is warned
    assert (f"only {share:.0%}" in said if share is not None else False) is warned
