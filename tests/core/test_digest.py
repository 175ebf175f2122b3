"""What decides results has a digest: sources, tables and weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.core.digest import tree_digest


@pytest.mark.parametrize("name", ["a.py", "graph/choice.json", "families.toml", "weights/x.safetensors"])
def test_a_changed_table_is_another_builder(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("1")
    before = tree_digest(tmp_path)
    (tmp_path / "a.pyc").write_text("compiled")
    assert tree_digest(tmp_path) == before
    place.write_text("2")
    assert tree_digest(tmp_path) != before
