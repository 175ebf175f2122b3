"""The first job of a split: read the pictures and compute the original's answers to every view."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevit.core.digest import sha256_value
from edgevit.errors import BadFile
from edgevit.split.jobs import Scratch
from edgevit.split.options import SplitOptions
from edgevit.split.train.pool import divide, make_pool, read_labelled, save_pool
from edgevit.split.train.teacher import Original
from edgevit.split.train.torch_device import CPU, on


@dataclass(frozen=True)
class PoolJob:
    """The job that reads the data sets and computes the original's answers; fields as in `SplitOptions`."""

    title: str
    store: str
    original: Original
    data: str
    data_digest: str
    evaluate: str
    evaluate_digest: str
    hold_out: float
    views: int
    flip: bool
    seed: int
    device: str

    @property
    def key(self) -> str:
        """Digest of everything that decides the pool."""
        values = {**asdict(self), "original": self.original.digest, "format": 3}
        for name in ("title", "store"):
            del values[name]
        return f"pool-{sha256_value(values)[:32]}"

    def make(self, out: Path, scratch: Scratch) -> None:
        """Write the pool's arrays into ``out``, reporting progress through ``scratch``."""
        loaded = self.original.load()
        done = 0

        def advance(what: str, total: int) -> Any:
            def more(count: int) -> None:
                nonlocal done
                done += count
                if done % 64 < count:
                    scratch.tell(what, done, total)

            return more

        rule, labels = loaded.preprocessing, loaded.labels
        skipped: list[tuple[str, BadFile]] = []

        def skip(name: str, error: BadFile) -> None:
            skipped.append((name, error))

        pictures = read_labelled(self.data, labels, rule, advance("reading pictures", 0), skip)
        if self.evaluate:
            held = read_labelled(self.evaluate, labels, rule, advance("reading pictures", 0), skip)
        else:
            pictures, held = divide(pictures, self.hold_out, self.seed)
        done = 0
        with on(self.device, loaded.module):
            pool = make_pool(
                loaded.module,
                pictures,
                rule,
                views=self.views,
                seed=self.seed,
                flip=self.flip,
                advance=advance("asking the original", self.views * len(pictures)),
            )
        save_pool(pool, held, out, skipped)


def data_digest(dataset: str) -> str:
    """Digest of a folder's file names, sizes and times; a generated data set is identified by its name."""
    if dataset.startswith("digits:"):
        return dataset
    root = Path(dataset)
    if not root.is_dir():
        raise BadFile(f"there is no folder {dataset}", cure="--data takes a folder with one sub-folder a class")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return sha256_value([[str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns] for p in files])


def pool_job(options: SplitOptions, original: Original, store: Path) -> PoolJob:
    """The pool job that every sub-model waits for.

    Raises:
        BadFile: there is no such folder.
    """
    return PoolJob(
        "the original's answers",
        str(store),
        original,
        options.data,
        data_digest(options.data),
        options.evaluate or "",
        data_digest(options.evaluate) if options.evaluate else "",
        options.hold_out,
        options.views,
        options.flip,
        options.seed,
        CPU if options.dask else options.device,  # it runs here, the others there
    )
