"""What ExecuTorch says in numbers is told in words."""

from __future__ import annotations

from edgevit.backends.executorch import in_words


def test_an_error_number_becomes_a_word() -> None:
    said = in_words(RuntimeError("Failed to execute method forward, error: 0x12\nmore"))
    assert "argument that an operator does not take" in said
    assert "0x" not in said
    assert "more" not in said
    assert in_words(RuntimeError("error: 0x7f")) == "error: 0x7f"
    assert in_words(RuntimeError()) == "RuntimeError"
