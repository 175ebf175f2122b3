"""Documents that version 0.1 wrote are read, or refused by their version with the cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevit.errors import BadFile
from edgevit.schema.manifest import parse_manifest
from edgevit.schema.recipe import parse_recipe, read_recipe

WRITTEN = Path(__file__).parent / "v0_1"
"""As `edgevit export` and `edgevit quantize` of 0.1.0 wrote them; of the recipe's tables the first entries."""


@pytest.mark.parametrize("name", ["manifest.json", "manifest-int8.json"])
def test_a_manifest_is_read(name: str) -> None:
    manifest = parse_manifest((WRITTEN / name).read_bytes(), name)
    assert manifest.edgevit == "0.1.0"
    assert manifest.verdict is not None and manifest.verdict.status == "passed"
    assert manifest.verdict.noise is None  # 0.1 did not measure it; the fixed limit counts
    assert (manifest.quantization is not None) == ("int8" in name)


def test_a_recipe_is_read_and_written_again() -> None:
    recipe = read_recipe(WRITTEN / "recipe.json")
    assert recipe.quantizer == "minmax" and len(recipe.weights) == 3
    assert parse_recipe(recipe.to_json(), "again") == recipe


@pytest.mark.parametrize(("parse", "name"), [(parse_manifest, "manifest.json"), (parse_recipe, "recipe.json")])
def test_a_document_of_another_version_is_refused(parse: object, name: str) -> None:
    values = json.loads((WRITTEN / name).read_text()) | {"schema_version": 99}
    with pytest.raises(BadFile) as refused:
        parse(json.dumps(values), name)  # type: ignore[operator]
    assert "schema_version" in refused.value.message or "version" in refused.value.message
    assert refused.value.cure
