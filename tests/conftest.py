"""Shared fixtures: an isolated home, and bundles that are exported once for the whole suite."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

# Several test processes share the cores: OpenMP threads that wait for each other would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's library is imported

import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from edgevit.bundle.read import read_bundle
from edgevit.data.digits import digits_arrays
from edgevit.models.load import load_model
from edgevit.pipeline.export import ExportResult, export
from edgevit.pipeline.options import ExportOptions
from edgevit.quant.options import QuantizeOptions
from edgevit.quant.quantize import quantize_loaded
from edgevit.split.options import SplitOptions, equal_fleet
from edgevit.split.train.fine_tune import Schedule
from tests.forked import fork_server, fork_workers, run_forked, start_anew

# A loaded machine is no reason to fail: what takes long is measured in tools/bench.
settings.register_profile("edgevit", deadline=None)
settings.load_profile("edgevit")

FORMATS = ("onnx", "litert", "executorch", "coreml")
REPRODUCIBLE = ("onnx", "litert", "executorch")


def pytest_configure(config: pytest.Config) -> None:
    """One server for all test processes of a run."""
    if not hasattr(config, "workerinput"):
        stack = ExitStack()
        stack.enter_context(fork_server(at_once=bool(config.getoption("numprocesses", None))))
        config.add_cleanup(stack.close)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tests of devices, browsers and fleets wait for a sixth of their time: three processes for two cores."""
    return math.ceil(1.5 * (os.cpu_count() or 1))


@pytest.fixture(scope="session", autouse=True)
def forked() -> Iterator[None]:
    """Toolchains are not imported anew for every file that is lowered."""
    with fork_workers():
        yield


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start as they do for users."""
    start_anew(monkeypatch)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test processes of a run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session", autouse=True)
def isolated(shared_folder: Path) -> Iterator[None]:
    """No test reads or writes the user's cache and configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_CACHE", str(shared_folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(shared_folder / "config"))
        # Beside other tests no warm-up is steady, and all of them would last for half a minute.
        patch.setenv("EDGEVIT_PROFILE_WARMUP", "3")
        patch.setenv("EDGEVIT_COMPARE_WARMUP", "3")
        yield


Exported = Callable[..., Path]


def crossed(rows: Sequence[str], columns: Sequence[str], first: Collection[tuple[str, str]]) -> list[Any]:
    """Every pair as parameters of a test; those that are not in ``first`` wait for `make matrix`."""
    pairs = [(row, column) for row in rows for column in columns]
    assert set(first) <= set(pairs)
    return [pytest.param(*one, marks=() if one in first else pytest.mark.matrix) for one in pairs]


def _recipe(model: str, folder: Path) -> Path:
    """Solved once, and carried into every format."""
    path = folder / f"{model}-recipe.json"
    with FileLock(str(folder / f"{model}-recipe.lock")):
        if not path.exists():
            options = QuantizeOptions(calib="digits:train", quantizer="repq", exportable=True)
            path.write_text(quantize_loaded(load_model(model), options).recipe.to_json())
    return path


@pytest.fixture(scope="session")
def exported(shared_folder: Path) -> Exported:
    """Export a bundled model once; returns the bundle's folder, which a test must not change."""

    def get(model: str = "tinyvit_digits", target: str = "onnx", precision: str = "fp32") -> Path:
        folder = shared_folder / "bundles" / model / f"{target}-{precision}"
        with FileLock(str(shared_folder / f"{model}-{target}-{precision}.lock")):
            if not folder.exists():
                recipe = _recipe(model, shared_folder) if precision == "int8" else None
                options = ExportOptions(
                    model, (target,), precision=precision, recipe=recipe, out=shared_folder / "bundles"
                )
                result: ExportResult = export(options)[0]
                if result.error:
                    raise result.error
        read_bundle(folder, check=False)
        return folder

    return get


@pytest.fixture(scope="session")
def few_digits(shared_folder: Path) -> Path:
    """A folder of classes each under ``train`` (20 pictures a class) and ``test`` (10)."""
    folder = shared_folder / "few-digits"
    with FileLock(str(shared_folder / "few-digits.lock")):
        if not folder.exists():
            for split, count in (("train", 20), ("test", 10)):
                images, labels = digits_arrays(split)
                for label in range(10):
                    place = folder / split / str(label)
                    place.mkdir(parents=True)
                    for number, image in enumerate(images[labels == label][:count]):
                        Image.fromarray(image).save(place / f"{number}.png")
    return folder


def small_split(digits: Path) -> SplitOptions:
    """What `small_plan` is."""
    return SplitOptions(
        "deit_digits",
        str(digits / "train"),
        equal_fleet(3),
        evaluate=str(digits / "test"),
        levels=(Fraction(1, 3),),
        between=0,
        last=Schedule(4),
        views=1,
        jobs=1,
    )


@pytest.fixture(scope="session")
def small_plan(shared_folder: Path, few_digits: Path) -> Path:
    """deit_digits split into three, trained for a moment; a test must not change it."""
    from edgevit.split.run import split_model

    folder = shared_folder / "small-plan"
    with FileLock(str(shared_folder / "small-plan.lock")):
        if not folder.exists():
            split_model(small_split(few_digits), folder)
    return folder


def cli(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return run_forked(
        "edgevit.cli.app",
        [*map(str, arguments)],
        environment={**os.environ, **(env or {})},
        cwd=cwd or Path.cwd(),
        timeout=timeout,
    )


def cli_json(*arguments: object, **options: object) -> dict[str, object]:
    """The document that ``--json`` prints."""
    done = cli(*arguments, "--json", **options)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
