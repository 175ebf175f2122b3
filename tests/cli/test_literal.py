"""Names, labels, paths and messages are printed as they are, whatever is in them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from edgevit.cli import app, console
from edgevit.cli.progress import listening
from edgevit.cli.verify import export_again
from edgevit.core.progress import Event
from edgevit.errors import UsageError
from tests.conftest import Exported, cli

HOSTILE = "cat [/cat] [red]x[/red] [onnx] :smile: {0} \x1b[31mred\x07 \u202egnp \udc80 a\nb"
SHOWN = r"cat [/cat] [red]x[/red] [onnx] :smile: {0} \x1b[31mred\x07 \u202egnp \udc80 a\nb"


@pytest.mark.parametrize(
    "show",
    [
        lambda: console.print_table(["a", HOSTILE.replace("\n", "")], [["x", HOSTILE]]),
        lambda: console.print_error(UsageError(HOSTILE, where=HOSTILE.replace("\n", ""), cure=HOSTILE)),
        lambda: console.warn(HOSTILE),
        lambda: console.note(HOSTILE),
        lambda: console.say_runtime(HOSTILE, quiet=False),
        lambda: console.stdout().print(HOSTILE),
        lambda: console.stderr().print(console.coloured(HOSTILE, "red")),
    ],
)
def test_every_way_of_printing(show: object, capsys: pytest.CaptureFixture[str]) -> None:
    show()  # type: ignore[operator]
    said = "".join(capsys.readouterr())
    assert SHOWN.replace(r"\nb", "") in said, said
    assert "\x1b" not in said and "\x07" not in said and "\u202e" not in said


def test_progress_and_the_crash_handler(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(False) as listen:
        listen(Event(HOSTILE, "loading", HOSTILE))
    with pytest.raises(SystemExit) as ended:
        app._bug(RuntimeError(HOSTILE + "[/]" * 3))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("[/cat] [red]x[/red]") == 3 and "\x1b" not in said


def test_json_that_the_terminal_s_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "utf-8", "latin-1"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
        console.print_json({"name": HOSTILE + "é→"})
        sys.stdout.flush()
        assert json.loads(raw.getvalue().decode(encoding))["name"] == HOSTILE + "é→"


def test_a_picture_and_a_label_that_look_like_markup(exported: Exported, tmp_path: Path) -> None:
    bundle = tmp_path / "b [copy] [/b]"
    shutil.copytree(exported(), bundle)
    text = (bundle / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest["labels"] = [f"cat [/cat] {number} é" for number in range(10)]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    picture = tmp_path / "IMG [copy] [red].png"
    shutil.copy(bundle / "golden" / "probe_0.png", picture)
    for encoding in ("utf-8", "ascii"):
        done = cli("predict", bundle, picture, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
        assert "IMG [copy] [red].png" in done.stdout and "cat [/cat] 8" in done.stdout
    for command in (["inspect", bundle], ["bundle", "show", bundle], ["predict", bundle, tmp_path / "no [/].png"]):
        done = cli(*command)
        assert "Traceback" not in done.stderr and "went wrong" not in done.stderr


def test_the_cure_of_a_missing_package_keeps_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(["to mend it"], [["pip install 'edgevit[onnx]'"]])
    assert "pip install 'edgevit[onnx]'" in capsys.readouterr().out


def test_the_command_after_hazards_has_what_this_one_had() -> None:
    given = ["--weights", "my model.pth", "--num-classes", "7", "--size", "64"]
    command = export_again("m", None, ("gelu*",), given)
    assert command == ["edgevit", "export", "m", *given, "-t", "coreml", "--precision", "fp16", "--keep-fp32", "gelu*"]


def test_the_command_after_hazards_of_a_bundle(exported: Exported) -> None:
    from edgevit.bundle.read import read_bundle

    manifest = read_bundle(exported("tinyvit_digits", "coreml")).manifest
    target = manifest.target.model_copy(update={"keep_fp32": ("softmax",), "rewrites": ("none",)})
    source = manifest.input.model_copy(update={"kind": "tensor"})
    rule = manifest.preprocess.model_copy(update={"size": (64, 64)})
    changed = manifest.model_copy(update={"target": target, "input": source, "preprocess": rule})
    command = " ".join(export_again("tinyvit_digits", changed, ("gelu",), []))
    for part in ("--size 64", "--input tensor", "--rewrites none", "--keep-fp32 softmax --keep-fp32 gelu"):
        assert part in command
