"""Label files as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from edgevit.errors import BadFile, UsageError
from edgevit.models.labels import labels_for, read_labels
from edgevit.models.load import load_model

NAMES = ("zero", "café", "two\u2028halves", "[copy]", "d\x0be")
TEXT = "\n".join(NAMES) + "\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r").encode(),
        (TEXT.rstrip() + "\n \r\n\u00a0\n\n").encode(),
        TEXT.replace("\n", "\u00a0\t\n").encode(),
        json.dumps(NAMES).encode(),
        json.dumps({str(index): name for index, name in enumerate(NAMES)}).encode(),
        json.dumps({name: index for index, name in enumerate(NAMES)}).encode(),
        json.dumps({"model_type": "vit", "id2label": {str(i): name for i, name in enumerate(NAMES)}}).encode(),
        json.dumps({str(index): [f"n{index}", name] for index, name in enumerate(NAMES)}).encode("utf-8-sig"),
    ],
)
def test_the_same_labels(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    assert read_labels(tmp_path / "labels.txt") == NAMES


def test_two_synsets_of_one_name_in_an_index(tmp_path: Path) -> None:
    (tmp_path / "i.json").write_text(json.dumps({"0": ["n01", "crane"], "1": ["n02", "crane"], "2": ["n03", "ox"]}))
    assert read_labels(tmp_path / "i.json") == ("crane (n01)", "crane (n02)", "ox")


def test_what_only_begins_like_json_is_lines(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("[unknown]\ncat\n")
    assert read_labels(tmp_path / "l.txt") == ("[unknown]", "cat")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("caf\u00e9\nna\u00efve\n".encode("cp1252"), r"not UTF-8 text \(line 1\)"),
        (b"\xff\xfea\x00b", "utf-16"),
        ("a\nb\n".encode("utf-16-le"), "NUL bytes"),
        (b"a\0b\nc\n", "NUL bytes"),
        (b"", "no label"),
        (b"\xef\xbb\xbf\r\n", "no label"),
        (b"a\n\nb\n", "label 2 of 3 .* is empty"),
        (b"a\nb\na\n", "repeats 'a'"),
        (b'{"0": "a", "2": "b"}', "neither a list of names nor"),
        (b'["a", 3]', "neither a list of names nor"),
        (b'["a", "b\\nc"]', "longer than one line"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    with pytest.raises(BadFile, match=says) as caught:
        read_labels(tmp_path / "labels.txt")
    assert str(tmp_path / "labels.txt") in caught.value.where
    assert caught.value.cure


def test_the_cure_for_another_encoding_works(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "labels.txt").write_bytes("caf\u00e9\n".encode("cp1252"))
    with pytest.raises(BadFile) as caught:
        read_labels(tmp_path / "labels.txt")
    subprocess.run(caught.value.cure.partition(": ")[2], shell=True, cwd=tmp_path, check=True)
    assert read_labels(tmp_path / "utf8.txt") == ("café",)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no labels file"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(BadFile, match="cannot be read"):
        read_labels(tmp_path)


def test_another_number_names_the_file_and_both_counts(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("cat\ndog\nox\n")
    labels = read_labels(tmp_path / "pets.txt")
    with pytest.raises(UsageError, match=r"pets\.txt holds 3 labels.* 10 classes"):
        load_model("tinyvit_digits", labels=labels)
    with pytest.raises(UsageError, match=r"pets\.txt holds 3 labels.* 4"):
        load_model("tinyvit_digits", weights="random", num_classes=4, labels=labels)
    save_file(load_model("shvit_digits").module.state_dict(), tmp_path / "ten.safetensors")
    with pytest.raises(UsageError, match=r"pets\.txt holds 3 labels.*ten\.safetensors has 10 classes"):
        load_model("shvit_digits", weights=str(tmp_path / "ten.safetensors"), labels=labels)
    with pytest.raises(UsageError, match="the list of labels holds 1 label, the model has 2"):
        labels_for("numbers", 2, ("a",))
