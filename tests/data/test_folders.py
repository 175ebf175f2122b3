"""Folders of pictures: which class a sub-folder stands for, and what is no picture."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from edgevit.data.folders import labelled_folder, picture_paths, readable_pictures
from edgevit.errors import BadFile
from edgevit.models.labels import labels_for
from edgevit.models.synsets import synset_classes
from edgevit.models.torchvision_fix import fix_torchvision_import


def folder_of(tmp_path: Path, names: list[str]) -> Path:
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "p.png")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "classes"), [(["cat", "dog"], [0, 1]), (["dog"], [1]), (["0", "1"], [0, 1]), (["00", "01"], [0, 1])]
)
def test_folders_of_classes(tmp_path: Path, names: list[str], classes: list[int]) -> None:
    found = list(labelled_folder(folder_of(tmp_path, names), ("cat", "dog")))
    assert [label for _, label in found] == classes


def test_a_folder_that_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="bird"):
        list(labelled_folder(folder_of(tmp_path, ["bird", "cat", "dog"]), ("cat", "dog")))


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no pictures"):
        picture_paths(tmp_path)
    with pytest.raises(BadFile, match="no sub-folders"):
        list(labelled_folder(tmp_path, ("a",)))
    with pytest.raises(BadFile, match="no folder"):
        picture_paths(tmp_path / "nowhere")


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_a_misspelt_class_is_named_and_not_put_in_alphabetical_order(tmp_path: Path) -> None:
    folder_of(tmp_path, [*DIGITS[:9], "nien"])
    with pytest.raises(BadFile, match="'nien' stands for no class") as caught:
        list(labelled_folder(tmp_path, DIGITS))
    assert caught.value.cure == "did you mean 'nine'?"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("nine", "Nine"),
        ("great white shark", "great_white-shark"),
        ("café", unicodedata.normalize("NFD", "café")),
        ("\ufeffzero", "zero"),
        ("N/A", "n_a"),
        ("Straße", "strasse"),
    ],
)
def test_a_class_by_another_spelling_of_the_same_name(tmp_path: Path, label: str, name: str) -> None:
    folder_of(tmp_path, ["a dog", name])
    found = {path.parent.name: index for path, index in labelled_folder(tmp_path, ("cat", label, "a dog"))}
    assert found == {"a dog": 2, name: 1}


def test_labels_that_differ_in_their_spelling_only_are_told_apart(tmp_path: Path) -> None:
    folder_of(tmp_path, ["C", "C++"])
    assert [index for _, index in labelled_folder(tmp_path, ("C++", "C"))] == [1, 0]


def test_unnamed_classes_are_taken_in_sorted_order_where_the_numbers_agree(tmp_path: Path) -> None:
    folder_of(tmp_path, ["bee", "ant"])
    assert [(path.parent.name, index) for path, index in labelled_folder(tmp_path, ("class_0", "class_1"))] == [
        ("ant", 0),
        ("bee", 1),
    ]
    with pytest.raises(BadFile, match="'ant' stands for no class"):
        list(labelled_folder(tmp_path, ("class_0", "class_1", "class_2")))


@pytest.mark.parametrize("names", [["1", "2"], ["0", "00"], ["0", "cat"]])
def test_numbers_that_are_no_indices_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BadFile):
        list(labelled_folder(folder_of(tmp_path, names), ("class_0", "class_1")))


def test_what_the_system_leaves_behind_is_neither_class_nor_picture(tmp_path: Path) -> None:
    folder_of(tmp_path, ["cat", "dog", "__MACOSX", ".git", "@eaDir"])
    for name in ("._p.png", ".hidden.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    (tmp_path / "cat" / "folder.png").mkdir()
    assert [label for _, label in labelled_folder(tmp_path, ("cat", "dog"))] == [0, 1]
    assert [path.name for path in picture_paths(tmp_path)] == ["p.png", "p.png"]


def test_pictures_beside_the_classes_are_told_of(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder_of(tmp_path, ["cat"]) / "stray.png")
    with pytest.raises(BadFile, match="in no class's folder"):
        list(labelled_folder(tmp_path, ("cat",)))
    said: list[str] = []
    assert len(list(labelled_folder(tmp_path, ("cat",), lambda name, error: said.append(name)))) == 1
    assert said == [str(tmp_path / "stray.png")]


def test_an_empty_class_is_told_of_before_any_picture_comes(tmp_path: Path) -> None:
    (folder_of(tmp_path, ["cat"]) / "dog").mkdir()
    with pytest.raises(BadFile, match="no pictures"):
        next(labelled_folder(tmp_path, ("cat", "dog")))


def test_the_folder_above_that_of_the_classes(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    folder_of(tmp_path / "val", ["cat", "dog"])
    with pytest.raises(BadFile) as caught:
        list(labelled_folder(tmp_path, ("cat", "dog")))
    assert caught.value.cure.endswith(f"give {tmp_path / 'val'}")


def test_synsets_where_the_labels_are_those_of_imagenet(tmp_path: Path) -> None:
    folder_of(tmp_path, ["n01440764", "n15075141", "n02012849"])
    fix_torchvision_import()
    labels = labels_for("imagenet-1k", 1000, None)
    found = [index for _, index in labelled_folder(tmp_path, labels, synsets=synset_classes)]
    assert found == [0, 134, 999]
    assert [labels[index] for index in found] == ["tench", "crane (n02012849)", "toilet tissue"]
    with pytest.raises(BadFile, match="n01440764"):
        list(labelled_folder(tmp_path, ("cat", "dog"), synsets=synset_classes))


def test_pictures_that_cannot_be_read_are_told_of_and_the_others_kept(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "c.heic").write_bytes(b"no picture")
    said: list[str] = []
    assert [p.name for p, _ in readable_pictures(tmp_path, lambda name, error: said.append(name))] == ["b.png"]
    assert [Path(name).name for name in said] == ["a.png", "c.heic"]
    (tmp_path / "b.png").unlink()
    with pytest.raises(BadFile, match="no picture in the folder can be read"):
        list(readable_pictures(tmp_path, lambda name, error: None))
