from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.digits import HELD_OUT, digits, digits_arrays
from edgevit.errors import UsageError


def test_the_test_set_never_changes() -> None:
    images, labels = digits_arrays("test")
    assert images.shape == (HELD_OUT, 32, 32, 3)
    assert np.bincount(labels).min() > 30
    first, label = next(digits("test"))
    assert np.array_equal(first, images[0])
    assert label == labels[0]


def test_training_and_test_digits_are_different_digits() -> None:
    from edgevit.data.digits import _split

    train, test = _split("train")[0], _split("test")[0]
    seen = {glyph.tobytes() for glyph in train}
    assert not any(glyph.tobytes() in seen for glyph in test)


def test_another_draw_moves_the_digit() -> None:
    assert not np.array_equal(next(digits("train", 0))[0], next(digits("train", 1))[0])


def test_an_unknown_split() -> None:
    with pytest.raises(UsageError, match="validation"):
        next(digits("validation"))
