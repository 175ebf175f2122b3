"""The first five minutes: a trained TinyViT in four formats, judged, and predicting real digits.

    python tools/demo.py [MODEL] [--out DIR]

Exports a bundled model, classifies held-out digits with PyTorch and with every format (Core ML in
edgevit's own evaluator), prints a table and writes a picture of the digits with each format's answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import edgevit
from edgevit.cli.console import print_table, size_text, stdout
from edgevit.cli.export import artifact_bytes
from edgevit.cli.progress import listening
from edgevit.core.own_process import claim_process
from edgevit.data.digits import digits_arrays
from edgevit.data.images import normalise, to_model_size
from edgevit.models.load import load_model
from edgevit.pipeline.export import ExportResult

TARGETS = ("coreml", "litert", "executorch", "onnx")
SHOWN = 12
CELL, MARGIN, LINE = 112, 14, 26
INK, PAPER, GOOD, BAD, GREY = "#1d2430", "#ffffff", "#18794e", "#c0362c", "#6b7280"


def torch_answers(model: str, images: np.ndarray) -> list[tuple[int, float]]:
    """PyTorch's class and probability of each image."""
    import torch

    loaded = load_model(model)
    pixels = np.stack([to_model_size(Image.fromarray(image), loaded.preprocessing) for image in images])
    with torch.no_grad():
        outputs = torch.softmax(loaded.module(torch.from_numpy(normalise(pixels, loaded.preprocessing))), -1)
    return [(int(row.argmax()), float(row.max())) for row in outputs]


def bundle_answers(result: ExportResult, images: np.ndarray) -> list[tuple[int, float]] | None:
    """A bundle's answers, or None where there is no good bundle."""
    manifest = result.manifest
    if result.path is None or manifest is None or manifest.verdict is None or manifest.verdict.status != "passed":
        return None
    deployed = edgevit.load(result.path)
    best = [deployed.predict(Image.fromarray(image), top=1)[0] for image in images]
    return [(prediction.index, prediction.score) for prediction in best]


def draw(images: np.ndarray, truth: np.ndarray, answers: dict[str, list[tuple[int, float]] | None], path: Path) -> None:
    """One column a digit: the picture, then what each format answered."""
    left = 190
    width = left + SHOWN * (CELL + MARGIN) + MARGIN
    height = 70 + CELL + MARGIN + LINE * len(answers) + 24
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    title, text, small = (ImageFont.load_default(size) for size in (24, 16, 13))
    pen.text((MARGIN, 16), "One TinyViT, trained on digits, in every format", fill=INK, font=title)
    for column in range(SHOWN):
        x = left + column * (CELL + MARGIN)
        sheet.paste(Image.fromarray(images[column]).resize((CELL, CELL), Image.Resampling.NEAREST), (x, 60))
        for row, found in enumerate(answers.values()):
            y = 60 + CELL + MARGIN + row * LINE
            if found is None:
                pen.text((x + CELL / 2, y), "failed" if column == 0 else "-", fill=GREY, font=small, anchor="ma")
                continue
            label, score = found[column]
            colour = GOOD if label == truth[column] else BAD
            pen.text((x + CELL / 2, y), f"{label}   {score:.1%}", fill=colour, font=text, anchor="ma")
    for row, name in enumerate(answers):
        pen.text((MARGIN, 60 + CELL + MARGIN + row * LINE), name, fill=INK, font=text)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main() -> int:
    claim_process()  # what native code prints while runtimes start is no part of the demo
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tinyvit_digits")
    parser.add_argument("--out", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    with listening(quiet=False) as listen:
        results = edgevit.export(arguments.model, TARGETS, out=arguments.out, listen=listen)
    images, truth = digits_arrays("test")
    images, truth = images[:SHOWN], truth[:SHOWN]
    reference = torch_answers(arguments.model, images)
    answers: dict[str, list[tuple[int, float]] | None] = {"PyTorch": reference}
    rows = []
    for result in results:
        answers[result.target] = bundle_answers(result, images)
        rows.append(_row(result, answers[result.target], reference, truth))
    print_table(
        ["format", "verdict", "error", "size", f"digits right of {SHOWN}", "same as PyTorch"],
        rows,
        right=("error", "size"),
    )
    picture = arguments.out / "demo.png"
    draw(images, truth, answers, picture)
    stdout().print(f"\npicture: {picture}\nbundles: {arguments.out / arguments.model}", markup=False)
    return 0 if all(result.ok for result in results) else 1


def _row(
    result: ExportResult, found: list[tuple[int, float]] | None, reference: list[tuple[int, float]], truth: np.ndarray
) -> list[str]:
    verdict = result.manifest.verdict if result.manifest else None
    if verdict is None:
        return [result.target, "conversion failed", "", "", "", ""]
    error = f"{verdict.error:.1e}" if verdict.error is not None else "–"
    row = [result.target, verdict.status.replace("_", " "), error, size_text(artifact_bytes(result))]
    if found is None:
        return [*row, "–", verdict.reasons[0] if verdict.reasons else "–"]
    right = sum(label == expected for (label, _), expected in zip(found, truth, strict=True))
    same = all(one[0] == other[0] for one, other in zip(found, reference, strict=True))
    return [*row, str(right), "yes" if same else "no"]


if __name__ == "__main__":
    sys.exit(main())
