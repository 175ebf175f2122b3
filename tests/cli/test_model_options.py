"""Options that say which model, and what `inspect` says of its head."""

from __future__ import annotations

import pytest

from edgevit.cli.inspect import _model, _show
from edgevit.errors import UsageError
from edgevit.models.load import load_model
from edgevit.pipeline.options import parse_side


@pytest.mark.parametrize("given", ["224", 224, "224x224", "224X224"])
def test_a_square_size(given: str | int) -> None:
    assert parse_side(given) == 224


@pytest.mark.parametrize(
    ("given", "says"), [("128x192", "square inputs only, not 128x192"), ("a", "not a size"), ("-3", "not a size")]
)
def test_another_size_is_refused_by_its_name(given: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_side(given)
    assert parse_side(caught.value.cure.rpartition(" ")[2]) in (192, 224)


def test_no_size_is_not_the_default_size() -> None:
    with pytest.raises(UsageError, match="out of range"):
        load_model("tinyvit_digits", size=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", ("21843 (imagenet-21k-goog)", "hf-hub:timm/vit_tiny_patch16_224.aug")),
        ("vitamin_small_224", ("an embedding of 384 numbers", "hf-hub:jienengchen/ViTamin-S")),
        ("vit_small_patch14_dinov2.lvd142m", ("no classifier", "--output features")),
        ("levit_512", ("none published", "1000 (imagenet-1k)")),
    ],
)
def test_inspect_tells_what_is_published(name: str, says: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    _show(_model(name, False))
    said = capsys.readouterr().out
    assert all(words in said for words in says)
