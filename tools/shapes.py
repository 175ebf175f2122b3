"""Twenty classes of drawn shapes at 64x64, and a TinyViT trained on them: a task for splitting with more classes.

    python tools/shapes.py DIR [--images N] [--train EPOCHS]

Writes `DIR/train/CLASS/*.png`, `DIR/test/CLASS/*.png` and, with `--train`, `DIR/model`, a folder that every command
takes as a model. Shapes are turned, stretched, coloured and placed at random on cluttered, noisy canvases; pictures
are a pure function of split, class and number.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE, FINE = 64, 4
Points = list[tuple[float, float]]


def regular(sides: int, start: float = -90.0) -> Points:
    """A regular polygon in the unit circle."""
    angles = [math.radians(start + 360 * i / sides) for i in range(sides)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def star(tips: int, inner: float) -> Points:
    """A star in the unit circle."""
    radii = [1.0 if i % 2 == 0 else inner for i in range(2 * tips)]
    angles = [math.radians(-90 + 180 * i / tips) for i in range(2 * tips)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def arc(start: float, end: float, radius: float = 1.0, across: float = 0.0) -> Points:
    """Part of a circle."""
    angles = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [(across + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def spiral() -> Points:
    """A band along a spiral."""
    turns = [(0.15 + 0.75 * i / 60, math.radians(900 * i / 60)) for i in range(61)]
    outer = [((r + 0.1) * math.cos(a), (r + 0.1) * math.sin(a)) for r, a in turns]
    inner = [((r - 0.1) * math.cos(a), (r - 0.1) * math.sin(a)) for r, a in reversed(turns)]
    return outer + inner


def heart() -> Points:
    """A heart."""
    found = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        found.append((x / 17, -y / 17))
    return found


# Each class: areas that are filled, then areas that are cut out again.
SHAPES: dict[str, tuple[list[Points], list[Points]]] = {
    "arrow": ([[(-1, -0.25), (0.1, -0.25), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.25), (-1, 0.25)]], []),
    "bars": ([box(-0.9, y, 0.9, y + 0.35) for y in (-0.9, -0.18, 0.55)], []),
    "crescent": ([arc(0, 360)], [arc(0, 360, 0.8, 0.45)]),
    "cross": ([box(-0.28, -1, 0.28, 1), box(-1, -0.28, 1, 0.28)], []),
    "disc": ([arc(0, 360)], []),
    "dots": ([[(x + 0.33 * px, y + 0.33 * py) for px, py in regular(12)] for x, y in regular(3)], []),
    "drop": ([[(0, -1.1), *arc(-30, 210, 0.75)]], []),
    "frame": ([box(-0.85, -0.85, 0.85, 0.85)], [box(-0.5, -0.5, 0.5, 0.5)]),
    "gear": ([star(9, 0.72)], [arc(0, 360, 0.35)]),
    "half": ([arc(0, 180)], []),
    "heart": ([heart()], []),
    "hexagon": ([regular(6)], []),
    "hourglass": ([[(-0.8, -1), (0.8, -1), (-0.8, 1), (0.8, 1)]], []),
    "letter-l": ([box(-0.7, -1, -0.15, 1), box(-0.7, 0.5, 0.8, 1)], []),
    "letter-t": ([box(-0.9, -1, 0.9, -0.45), box(-0.28, -1, 0.28, 1)], []),
    "ring": ([arc(0, 360)], [arc(0, 360, 0.6)]),
    "spiral": ([spiral()], []),
    "square": ([box(-0.85, -0.85, 0.85, 0.85)], []),
    "star": ([star(5, 0.42)], []),
    "triangle": ([regular(3)], []),
}
CLASSES = tuple(SHAPES)


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """One picture of a class."""
    side = SIZE * FINE
    canvas = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(0, 120, 3)))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 8)):
        ends = [tuple(point) for point in rng.uniform(0, side, (2, 2)).tolist()]
        pen.line(ends, fill=tuple(int(v) for v in rng.integers(40, 220, 3)), width=int(rng.integers(2, 10)))
    mask = Image.new("L", (side, side), 0)
    filled, cut = SHAPES[name]
    place = _placement(rng, side)
    for areas, value in ((filled, 255), (cut, 0)):
        for area in areas:
            ImageDraw.Draw(mask).polygon([place(point) for point in area], fill=value)
    canvas.paste(Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(120, 256, 3))), (0, 0), mask)
    pixels = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)
    noisy = pixels + rng.normal(0, rng.uniform(4, 22), pixels.shape)
    return Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))


def _placement(rng: np.random.Generator, side: int) -> Callable[[tuple[float, float]], tuple[float, float]]:
    size, turn = side * rng.uniform(0.17, 0.33), math.radians(rng.uniform(-35, 35))
    wide, tall = rng.uniform(0.75, 1.25, 2)
    x, y = rng.uniform(size * 1.15, side - size * 1.15, 2)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        px, py = point[0] * wide * size, point[1] * tall * size
        return x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)

    return place


def write(root: Path, split: str, images: int) -> None:
    """All pictures of one split."""
    for label, name in enumerate(CLASSES):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            rng = np.random.default_rng([0 if split == "train" else 1, label, number])
            draw(name, rng).save(folder / f"{number:04d}.png")


MODEL_ARGS = {
    "embed_dims": (48, 64, 96, 128),
    "depths": (1, 2, 2, 1),
    "num_heads": (2, 4, 6, 8),
    "window_sizes": (4, 4, 4, 2),
    "drop_path_rate": 0.0,
}
ARCHITECTURE, MEAN, STD, SEED, BATCH, PEAK = "tiny_vit_5m_224", (0.45,) * 3, (0.25,) * 3, 3, 64, 2e-3


def train(root: Path, epochs: int) -> None:
    """Train the model and write it as a folder."""
    from edgevit.models.torchvision_fix import fix_torchvision_import

    fix_torchvision_import()
    import timm
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional

    from edgevit.schema.model import Preprocessing
    from edgevit.split.train.pool import Pool, random_maps, read_labelled

    torch.manual_seed(SEED)
    rule = Preprocessing((SIZE, SIZE), crop_pct=1.0, mean=MEAN, std=STD)
    plain, test = (read_labelled(str(root / split), CLASSES, rule, lambda done: None) for split in ("train", "test"))
    pool = Pool(plain, random_maps(8, len(plain), SEED, flip=False), np.zeros((8, 0, 0), np.float32), rule)
    model = timm.create_model(ARCHITECTURE, num_classes=len(CLASSES), **MODEL_ARGS)
    steps, labels, rng = len(plain) // BATCH, torch.from_numpy(plain.labels), np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=epochs * steps, pct_start=0.15)
    started = time.monotonic()
    for epoch in range(epochs):
        model.train()
        for which in rng.permutation(len(plain))[: steps * BATCH].reshape(steps, BATCH):
            images = pool.batch(rng.integers(0, 8, BATCH), which)
            loss = functional.cross_entropy(model(images), labels[which], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            parts = np.array_split(np.arange(len(test)), 16)
            right = sum(int((model(test.batch(p, rule)).argmax(1).numpy() == test.labels[p]).sum()) for p in parts)
        print(f"epoch {epoch + 1}/{epochs}: {right / len(test):.4f}, {time.monotonic() - started:.0f} s", flush=True)
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(CLASSES),
        "label_names": list(CLASSES),
        "model_args": {key: list(value) if isinstance(value, tuple) else value for key, value in MODEL_ARGS.items()},
        "pretrained_cfg": {
            "input_size": [3, SIZE, SIZE],
            "crop_pct": 1.0,
            "mean": list(MEAN),
            "std": list(STD),
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=300, help="of each class to train on; a quarter as many to test")
    parser.add_argument("--train", type=int, default=0, metavar="EPOCHS")
    given = parser.parse_args()
    write(given.folder, "train", given.images)
    write(given.folder, "test", given.images // 4)
    if given.train:
        train(given.folder, given.train)


if __name__ == "__main__":
    main()
