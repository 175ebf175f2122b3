"""Train the bundled models on the digits canvas and store them with their measured accuracy.

    python tools/train_digits.py [NAME...] [--epochs N]

Writes `edgevit/models/weights/NAME.safetensors`; the file's metadata carries the seed, the epochs
and the held-out accuracy. The run is deterministic for a given torch build and thread count.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from edgevit.data.digits import MEAN, STD, digits_arrays
from edgevit.models.bundled import BUILDERS, build_bundled

SEED = 7
BATCH = 64
EPOCHS = {"deit_digits": 150}
PEAK_LEARNING_RATE = {"deit_digits": 1e-3}
WEIGHTS = Path(__file__).parents[1] / "edgevit/models/weights"


def tensors(split: str, draw_number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The split as ([N, 3, 32, 32] normalised float32, [N] int64)."""
    images, labels = digits_arrays(split, draw_number)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], torch.from_numpy(labels)


def train_one_epoch(model: nn.Module, split: tuple[torch.Tensor, torch.Tensor],
                    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.OneCycleLR) -> None:
    model.train()
    images, labels = split
    for batch in torch.randperm(len(labels)).split(BATCH):
        if len(batch) < BATCH:
            continue
        outputs = model(images[batch])
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum(F.cross_entropy(head, labels[batch], label_smoothing=0.05) for head in heads)
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


def train(name: str, epochs: int) -> float:
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    model = build_bundled(name)
    steps = epochs * (1347 // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE.get(name, 3e-3), total_steps=steps, pct_start=0.15,
    )
    test, started = tensors("test"), time.monotonic()
    for epoch in range(epochs):
        train_one_epoch(model, tensors("train", epoch), optimizer, schedule)
        if epoch % 10 == 9 or epoch == epochs - 1:
            print(f"{name} epoch {epoch + 1}/{epochs} held-out {accuracy(model, test):.4f} "
                  f"{time.monotonic() - started:.0f} s", flush=True)
    result = accuracy(model, test)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    facts = {"name": name, "accuracy": result, "seed": SEED, "epochs": epochs, "images": "digits:test"}
    WEIGHTS.mkdir(exist_ok=True)
    save_file(state, WEIGHTS / f"{name}.safetensors", metadata={"edgevit": json.dumps(facts)})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(BUILDERS), metavar="NAME")
    parser.add_argument("--epochs", type=int, help="default: 60; 150 for deit_digits")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    for name in arguments.names:
        print(f"{name}: {train(name, arguments.epochs or EPOCHS.get(name, 60)):.4f}", flush=True)


if __name__ == "__main__":
    main()
