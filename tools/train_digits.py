"""Train the bundled models on the digits canvas and store them with their measured accuracy.

    python tools/train_digits.py [NAME...] [--epochs N]

Writes `edgevit/models/weights/NAME.safetensors`; the file's metadata carries the seed, the epochs
and the held-out accuracy. The run is deterministic for a given torch build and thread count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from edgevit.data.digits import MEAN, STD, digits_arrays
from edgevit.models.bundled import BUILDERS, build_bundled
from edgevit.models.load import load_model

SEED = 7


@dataclass(frozen=True)
class Recipe:
    """One phase of a model's training: a fresh optimizer, schedule and seed.

    Attributes:
        epochs: passes over the 1,347 training digits.
        batch: images a step.
        peak: highest learning rate of the one-cycle schedule.
        draws: how many different canvases of each digit are cycled through.
        shift: images are moved by up to so many pixels, edges repeated.
        warp: images are turned, sheared and stretched by a random matrix this far from the identity.
        first_draw: the first of those canvases.
        teacher: a bundled model whose soft answers count for half of the loss (DeiT's distillation).
    """

    epochs: int = 60
    batch: int = 64
    peak: float = 3e-3
    draws: int = 60
    shift: int = 0
    teacher: str = ""
    first_draw: int = 0
    warp: float = 0.0


RECIPES = {
    "deit_digits": (
        Recipe(epochs=260, batch=32, peak=1.5e-3, draws=40, shift=4),
        Recipe(epochs=150, batch=32, peak=8e-4, draws=60, first_draw=40, shift=4, teacher="tinyvit_digits"),
        Recipe(epochs=120, batch=32, peak=1e-3, draws=60, first_draw=100, shift=3, teacher="tinyvit_digits", warp=0.2),
    ),
}
WEIGHTS = Path(__file__).parents[1] / "edgevit/models/weights"


@lru_cache(maxsize=64)
def tensors(split: str, draw_number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The split as ([N, 3, 32, 32] normalised float32, [N] int64)."""
    images, labels = digits_arrays(split, draw_number)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], torch.from_numpy(labels)


def shifted(images: torch.Tensor, most: int) -> torch.Tensor:
    """Move each image by up to ``most`` pixels in both directions, repeating its edges."""
    if not most:
        return images
    padded = F.pad(images, (most,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * most + 1, (len(images), 2)).tolist()
    return torch.stack(
        [image[:, top : top + 32, left : left + 32] for image, (top, left) in zip(padded, corners, strict=True)]
    )


def warped(images: torch.Tensor, most: float) -> torch.Tensor:
    """Turn, shear, stretch and move each image by a random affine map."""
    if not most:
        return images
    maps = torch.eye(2, 3).repeat(len(images), 1, 1) + (torch.rand(len(images), 2, 3) * 2 - 1) * most
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def distillation(teacher: nn.Module, outputs: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """KL divergence from the teacher's answers."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher(images), -1)
    return F.kl_div(F.log_softmax(outputs, -1), wanted, log_target=True, reduction="batchmean")


def train_one_epoch(
    model: nn.Module,
    split: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe,
    teacher: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
) -> None:
    model.train()
    images, labels = split
    for batch in torch.randperm(len(labels)).split(recipe.batch):
        if len(batch) < recipe.batch:
            continue
        given = warped(shifted(images[batch], recipe.shift), recipe.warp)
        outputs = model(given)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum(F.cross_entropy(head, labels[batch], label_smoothing=0.05) for head in heads)
        if teacher is not None:
            loss = (loss + distillation(teacher, outputs, given)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, split: tuple[torch.Tensor, torch.Tensor]) -> float:
    model.eval()
    images, labels = split
    return float((model(images).argmax(1) == labels).float().mean())


def train(model: nn.Module, name: str, phase: int, recipe: Recipe) -> float:
    if phase:
        torch.manual_seed(SEED + phase)
    steps = recipe.epochs * (1347 // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak, total_steps=steps, pct_start=0.15)
    teacher = load_model(recipe.teacher).module if recipe.teacher else None
    test, started = tensors("test"), time.monotonic()
    for epoch in range(recipe.epochs):
        split = tensors("train", recipe.first_draw + epoch % recipe.draws)
        train_one_epoch(model, split, recipe, teacher, optimizer, schedule)
        if epoch % 10 == 9 or epoch == recipe.epochs - 1:
            print(
                f"{name} phase {phase} epoch {epoch + 1}/{recipe.epochs} held-out {accuracy(model, test):.4f} "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
    return accuracy(model, test)


def fresh(name: str) -> nn.Module:
    torch.manual_seed(SEED)
    return build_bundled(name)


def save(model: nn.Module, name: str, result: float, phases: Sequence[Recipe]) -> None:
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    facts = {
        "name": name,
        "accuracy": result,
        "seed": SEED,
        "epochs": sum(r.epochs for r in phases),
        "images": "digits:test",
    }
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS / f"{name}.safetensors"
    save_file(state, path, metadata={"edgevit": json.dumps(facts)})
    path.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(BUILDERS), metavar="NAME")
    parser.add_argument("--from-phase", type=int, default=0, help="start from the stored weights of the phase before")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    for name in arguments.names:
        recipes = RECIPES.get(name, (Recipe(),))
        model = load_model(name).module.requires_grad_(True) if arguments.from_phase else fresh(name)
        for phase, recipe in enumerate(recipes):
            if phase >= arguments.from_phase:
                result = train(model, name, phase, recipe)
                save(model, name, result, recipes[: phase + 1])
                print(f"{name}: {result:.4f}", flush=True)


if __name__ == "__main__":
    main()
