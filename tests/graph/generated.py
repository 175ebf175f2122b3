"""Random small programs over images and tokens, for properties of rewrites.

Each step of a program takes a value made before and makes a new one. Which, follows from the seed and the shapes
alone, so a program is the same at every call.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 20_000
"""Numbers a value may have, so that a program is captured and run in milliseconds."""


class Generated(nn.Module):
    """A program of ``length`` steps drawn by ``seed``: [1, 6, 8, 8] to a flat vector."""

    def __init__(self, seed: int, length: int = 12) -> None:
        super().__init__()
        self.seed, self.length = seed, length
        self.weights = nn.ParameterDict()
        self.drawn = torch.Generator().manual_seed(seed)
        self.eval()
        with torch.no_grad():
            self(example(seed))

    def weight(self, name: str, *size: int, around: float = 0.0) -> Tensor:
        """A parameter of that name, drawn when it is first asked for."""
        if name not in self.weights:
            value = around + torch.randn(size, generator=self.drawn) * 0.4
            self.weights[name] = nn.Parameter(value, requires_grad=False)
        return self.weights[name]

    def forward(self, x: Tensor) -> Tensor:
        rng = random.Random(self.seed)
        values = [x * 1.0]
        for number in range(self.length):
            step = rng.choice(STEPS)
            made = step(self, values[rng.randrange(max(0, len(values) - 4), len(values))], rng, f"w{number}")
            if made is not None and 1 < made.numel() <= MOST:
                values.append(made.tanh() if rng.random() < 0.2 else made)
        return torch.cat([value.float().reshape(-1) for value in values[-4:]])


def example(seed: int) -> Tensor:
    """An input for such a program."""
    return torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(seed + 1))


def linear(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    out = rng.choice([x.shape[-1], 6, 9])
    bias = m.weight(name + "b", out) if rng.random() < 0.6 else None
    return F.linear(x, m.weight(f"{name}w{x.shape[-1]}", out, x.shape[-1]), bias)


def vector(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    return F.linear(x, m.weight(name, x.shape[-1])) if x.dim() > 1 else None


def convolution(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    if x.dim() not in (3, 4) or min(x.shape[-2:]) < 3:
        return None
    channels = x.shape[-3]
    groups = channels if rng.random() < 0.4 else 1
    made = F.conv2d(x, m.weight(name, channels, channels // groups, 3, 3), None, 1, 1, 1, groups)
    return x + made if rng.random() < 0.5 else made


def batch_norm(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    if x.dim() < 2:
        return None
    size = x.shape[1]
    mean, variance = m.weight(name + "m", size), m.weight(name + "v", size, around=2.0).abs() + 0.1
    if rng.random() < 0.5:
        x = linear(m, x, rng, name + "l") if x.dim() == 2 else convolution(m, x, rng, name + "c")
        if x is None or x.dim() < 2 or x.shape[1] != size:
            return None
    return F.batch_norm(x, mean, variance, m.weight(name + "w", size, around=1.0), m.weight(name + "b", size))


def norm(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    if x.dim() >= 3 and rng.random() < 0.3:
        return F.group_norm(x, 1, m.weight(name + "g", x.shape[1], around=1.0), None)
    affine = rng.random() < 0.6
    weight = m.weight(name + "w", x.shape[-1], around=1.0) if affine else None
    made = F.layer_norm(x, (x.shape[-1],), weight, m.weight(name + "b", x.shape[-1]) if affine else None)
    return linear(m, made, rng, name + "l") if rng.random() < 0.5 else made


def attention(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    if x.dim() < 3 or x.shape[-2] > 64:
        return None
    parts = [linear(m, x, random.Random(rng.random()), f"{name}{part}") for part in "qk"]
    if parts[0].shape != parts[1].shape or rng.random() < 0.3:
        parts = [x, x]
    mask = m.weight(f"{name}m", x.shape[-2], x.shape[-2]) if rng.random() < 0.4 else None
    if rng.random() < 0.5:
        return F.scaled_dot_product_attention(parts[0], parts[1], x, attn_mask=mask)
    scores = (parts[0] @ parts[1].transpose(-2, -1)) * 0.3
    return (scores if mask is None else scores + mask).softmax(-1) @ x


def projection(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    if x.dim() < 2:
        return None
    made = F.linear(x, m.weight(f"{name}w{x.shape[-1]}", 12, x.shape[-1]), m.weight(name + "b", 12))
    first, second, third = made.chunk(3, -1) if rng.random() < 0.5 else made.split([4, 4, 4], -1)
    if rng.random() < 0.3:
        second.mul_(0.5)
    return first * second + (third if rng.random() < 0.5 else made[..., :4])


def moves(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    for _ in range(rng.randint(1, 4)):
        choice = rng.randrange(6)
        if choice == 0:
            x = x.permute(rng.sample(range(x.dim()), x.dim()))
        elif choice == 1 and x.dim() > 1:
            x = x.flatten(-2)
        elif choice == 2:
            even = [axis for axis, size in enumerate(x.shape) if size % 2 == 0 and size > 2]
            x = x.unflatten(rng.choice(even), (2, -1)) if even and x.dim() < 7 else x
        elif choice == 3 and x.dim() < 7:
            x = x.unsqueeze(rng.randint(0, x.dim()))
        elif choice == 4:
            x = x.squeeze() if x.numel() > 1 else x
        else:
            x = x.clone() if rng.random() < 0.5 else x.contiguous()
    return x


def parts(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    axis = rng.randrange(x.dim())
    if x.shape[axis] < 2:
        return None
    choice = rng.randrange(5)
    if choice == 0:
        return torch.stack(x.unbind(axis)[:3], rng.randrange(x.dim()))
    if choice == 1:
        return x[(slice(None),) * axis + (slice(rng.randrange(2), None, rng.choice([1, 2, 3])),)]
    if choice == 2:
        return x.roll(rng.randint(-3, 3), axis) if rng.random() < 0.7 else x.roll(2)
    if choice == 3:
        return x.select(axis, -1) + x.select(axis, 0)
    return torch.cat([one * 2 for one in x.split(max(1, x.shape[axis] // 2), axis)], axis)


def elementwise(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    choice = rng.randrange(8)
    if choice == 0:
        return F.gelu(x, approximate=rng.choice(["none", "tanh"]))
    if choice == 1:
        return x * rng.choice([0.5, 2, True, -1.5])
    if choice == 2:
        return x * m.weight(name, x.shape[-1], around=1.0)
    if choice == 3:
        return torch.add(x, x.flip(-1), alpha=2)
    if choice == 4:
        return F.dropout(F.pad(x, (0, 0)), 0.3, False) + x.float().to(x.dtype)
    if choice == 5:
        return x * x.mean(-1, keepdim=True).expand_as(x)
    if choice == 6:
        counts = (torch.arange(x.shape[-1]) % 3).expand(x.shape).sum(-1, keepdim=True)
        return x.double().add(1).float() if rng.random() < 0.5 else counts * x
    return x.relu()


def reduction(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    axes = rng.sample(range(x.dim()), rng.randint(1, x.dim()))
    keep = rng.random() < 0.5
    return rng.choice([x.mean, x.sum, x.amax])(axes, keep)


def constant(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    size = x.shape[-1]
    table = torch.ones(size, size)
    before = x * table[0]
    table[: size // 2] = 0
    table[:, rng.randrange(size)].mul_(3)
    return x + (table.sum(0) if rng.random() < 0.5 else table[0]) + before


def overwritten(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    y = x * 1
    view = y.reshape(-1)[: y.numel() // 2] if rng.random() < 0.5 else y[0]
    view.add_(1) if rng.random() < 0.5 else view.relu_()
    return y + view.sum() if rng.random() < 0.5 else y


def bicubic(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    return F.interpolate(x, size=(5, 7), mode="bicubic") if x.dim() == 4 else None


def guarded(m: Generated, x: Tensor, rng: random.Random, name: str) -> Tensor | None:
    with torch.amp.autocast("cpu", enabled=False):
        y = x.float() * 2
        y[..., 0] = 1
    return y.to(x.dtype)


Step = Callable[[Generated, Tensor, random.Random, str], "Tensor | None"]
STEPS: tuple[Step, ...] = (
    linear,
    vector,
    convolution,
    batch_norm,
    norm,
    attention,
    projection,
    moves,
    moves,
    parts,
    elementwise,
    elementwise,
    reduction,
    constant,
    overwritten,
    bicubic,
    guarded,
)
