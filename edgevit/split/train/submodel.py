"""The job of one sub-model: prune the original in three stages for its classes, fine-tune after each, save."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgevit.compress.width.cut import cut, narrow, structure_of
from edgevit.compress.width.rotate import can_rotate, rotate
from edgevit.compress.width.structure import STAGES, Group, WidthStage
from edgevit.core.digest import sha256_value
from edgevit.models.load import LoadedModel
from edgevit.split.jobs import Scratch
from edgevit.split.plan.widths import counts
from edgevit.split.train.fine_tune import Schedule, auxiliary_head, features, fit, make_optimizer
from edgevit.split.train.importance import Score, importance
from edgevit.split.train.pool import Labelled, Pool, read_pool
from edgevit.split.train.subset import Subset, fit_head
from edgevit.split.train.teacher import Original
from edgevit.split.train.torch_device import device_of, on

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

_SCORED = 256
"""Pictures of a sub-model's classes that importance is computed on."""
_KL_BLOCK = 8
"""Units left out together for the ``kl`` score: one forward pass each."""
_CHECKPOINT = "checkpoint.safetensors"
_FUSED_VIEWS = 6
"""Views whose features are saved for the fusion head, at most."""
_NARROW_HEAD = 16
"""Below this number of channels a head, torch's fused attention takes longer on a CPU than the products one by one."""


@dataclass(frozen=True)
class SubModelJob:
    """The job that prunes and trains one sub-model.

    Attributes:
        title: the sub-model's name.
        store: of results.
        original: the model that is split.
        pool: key of the pool of views in the store.
        classes: of the sub-model.
        keep: share of every width, as text.
        score: the importance score, see `edgevit.split.train.importance`.
        between: epochs after the first and second stage.
        last: the schedule after the third.
        seed: of everything drawn.
        threads: of torch; another number may round differently.
        device: to train on; another may round differently.
    """

    title: str
    store: str
    original: Original
    pool: str
    classes: tuple[int, ...]
    keep: str
    score: Score
    between: int
    last: Schedule
    seed: int
    threads: int
    device: str

    @property
    def key(self) -> str:
        """Digest of everything that decides the weights."""
        values = {**asdict(self), "original": self.original.digest, "torch": torch.__version__, "format": 5}
        del values["title"], values["store"]
        return f"sub-{sha256_value(values)[:32]}"

    def make(self, out: Path, scratch: Scratch) -> None:
        """Write ``model/`` (which `edgevit export` takes) and the features of all pictures."""
        torch.set_num_threads(self.threads)
        loaded = self.original.load()
        pool, held = read_pool(Path(self.store) / self.pool)
        subset = Subset(self.classes, len(loaded.labels))
        module = _Training(self, loaded, pool, subset, scratch).run()
        save_model(module, loaded, subset, out / "model")
        with on(self.device, module):
            _save_features(module, pool.on(device_of(module)), held.on(device_of(module)), out)


class _Training:
    """The three pruning stages, with a checkpoint after every epoch."""

    def __init__(self, job: SubModelJob, loaded: LoadedModel, pool: Pool, subset: Subset, scratch: Scratch) -> None:
        self.job, self.pool, self.subset, self.scratch = job, pool, subset, scratch
        self.model = loaded.module
        self.original = structure_of(self.model).sizes()
        self.total = 2 * job.between + job.last.epochs

    def run(self) -> nn.Module:
        """Carry out the remaining stages; returns the finished sub-model in eval mode."""
        stage, epoch, state = self._resume()
        if state is None:
            fit_head(self.model, self.subset)
        while stage < len(STAGES):
            if epoch < 0:
                self._prune(STAGES[stage])
                epoch = 0
            _set_attention(self.model)
            with on(self.job.device, self.model):
                self._fine_tune(stage, epoch, state)
            stage, epoch, state = stage + 1, -1, None
        return self.model

    def _fine_tune(self, stage: int, start: int, state: Mapping[str, Any] | None) -> None:
        last = stage == len(STAGES) - 1
        schedule = self.job.last if last else Schedule(**{**asdict(self.job.last), "epochs": self.job.between})
        auxiliary = auxiliary_head(self.model, self.subset.total)
        optimizer = make_optimizer(self.model.requires_grad_(True), auxiliary, schedule)
        if state is not None:
            auxiliary.load_state_dict(_part(state, "auxiliary."))
            _load_optimizer(optimizer, state)
        fit(
            self.model,
            auxiliary,
            self.pool,
            self.subset,
            schedule,
            seed=self.job.seed * 7 + stage,
            optimizer=optimizer,
            start=start,
            after_epoch=partial(self._save, stage, auxiliary, optimizer),
        )

    def _prune(self, stage: WidthStage) -> None:
        self.scratch.tell(f"pruning {stage}", 0, 0)
        self.model.eval().requires_grad_(False)
        if can_rotate(self.model):
            rotate(self.model, stage, self._pictures(np.arange(len(self.pool.pictures))))
        structure = structure_of(self.model)
        groups = structure.of_stage(stage)
        own = np.flatnonzero(np.isin(self.pool.pictures.labels, self.subset.classes))
        with on(self.job.device, self.model):
            seen = self._pictures(own).to(self.job.device)
            scores = importance(self.model, groups, seen, self.job.score, seed=self.job.seed, block=_KL_BLOCK)
        keep = counts(
            structure,
            Fraction(self.job.keep),
            original=self.original,
            marginal=_marginal(groups, scores, self.job.keep),
        )
        kept = {group.name: best(scores[group.name], keep[group.name]) for group in groups}
        cut(self.model, kept)

    def _pictures(self, among: NDArray[np.int64]) -> Tensor:
        chosen = np.random.default_rng(self.job.seed).permutation(among)[:_SCORED]
        return self.pool.pictures.batch(np.sort(chosen), self.pool.rule)

    def _done(self, stage: int, epoch: int) -> int:
        return stage * self.job.between + epoch

    def _save(self, stage: int, auxiliary: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        from safetensors.torch import save

        from edgevit.core.files import write_whole

        state = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        state |= {f"auxiliary.{name}": value for name, value in auxiliary.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            state |= {
                f"optimizer.{index}.{name}": value.clone().reshape(value.shape) for name, value in moments.items()
            }
        at = {"stage": stage, "epoch": epoch, "widths": structure_of(self.model).sizes()}
        write_whole(self.scratch.folder / _CHECKPOINT, save(state, {"at": json.dumps(at)}))
        self.scratch.tell("fine-tuning", self._done(stage, epoch), self.total)

    def _resume(self) -> tuple[int, int, dict[str, Any] | None]:
        from safetensors import SafetensorError, safe_open

        path = self.scratch.folder / _CHECKPOINT
        try:
            with safe_open(path, framework="pt") as file:
                at = json.loads(file.metadata()["at"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0, -1, None
        fit_head(self.model, self.subset)
        narrow(self.model, at["widths"])
        self.model.load_state_dict(_part(state, "model."))
        return at["stage"], at["epoch"], state


def _set_attention(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "fused_attn") and getattr(module, "head_dim", _NARROW_HEAD) < _NARROW_HEAD:
            module.fused_attn = False  # type: ignore[assignment]


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    moments: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, leaf = rest.partition(".")
            moments.setdefault(int(index), {})[leaf] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def best(scores: Tensor, count: int) -> list[int]:
    """Indices of the largest scores, ascending; ties go to the lower index."""
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())


def _marginal(groups: list[Group], scores: Mapping[str, Tensor], keep: str) -> dict[str, float]:
    """By layer of heads, the importance of the unit at the boundary of its share."""
    found: dict[str, float] = {}
    for group in groups:
        if group.layer:
            edge = min(group.size - 1, int(group.size * Fraction(keep)))
            value = float(scores[group.name].sort(descending=True).values[edge])
            found[group.layer] = found.get(group.layer, 0.0) + value
    return found


def save_model(module: nn.Module, loaded: LoadedModel, subset: Subset, folder: Path) -> None:
    """Write a sub-model as a folder that every command takes as a model: ``config.json`` and its weights."""
    from safetensors.torch import save_file

    folder.mkdir()
    rule, spec = loaded.preprocessing, loaded.spec
    config = {
        "architecture": spec.source,
        "num_classes": 1 + len(subset.classes),
        "label_names": ["others", *(loaded.labels[index] for index in subset.classes)],
        "pretrained_cfg": {
            "input_size": [3, *rule.size],
            "crop_pct": rule.crop_pct,
            "crop_mode": rule.crop_mode,
            "interpolation": rule.interpolation,
            "mean": list(rule.mean),
            "std": list(rule.std),
            "license": spec.licence,
        },
        "narrowed": {
            "origin": "bundled" if spec.origin == "bundled" else "timm",
            "num_classes": len(loaded.labels),
            "widths": structure_of(module).sizes(),
        },
    }
    if spec.origin == "local":
        given = json.loads((Path(spec.name) / "config.json").read_text(encoding="utf-8"))
        config["model_args"] = given.get("model_args", {})
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")


def _save_features(module: nn.Module, pool: Pool, held: Labelled, out: Path) -> None:
    views = [features(module, pool.batches(view)).numpy() for view in range(min(pool.views, _FUSED_VIEWS))]
    np.save(out / "features.npy", np.stack(views), allow_pickle=False)
    np.save(out / "held.npy", features(module, held.batches(pool.rule)).numpy(), allow_pickle=False)
