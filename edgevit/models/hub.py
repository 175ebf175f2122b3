"""Downloads published weights, and records exactly which file that was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgevit.core.digest import sha256_file
from edgevit.errors import EdgevitError, EnvironmentIncomplete, UsageError, WeightsMismatch
from edgevit.schema.model import ModelSpec

if TYPE_CHECKING:
    from torch import nn

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for in a repository, in this order."""

_LINES = 3
"""Lines of the cause that are quoted in an error."""


def repository(location: str) -> str:
    """The repository of a hub location, or an empty string for a URL."""
    return location.removeprefix("hf-hub:") if location.startswith("hf-hub:") else ""


def build_published(spec: ModelSpec, build: Callable[[], nn.Module]) -> tuple[nn.Module, str]:
    """A model with the weights that are published under its name, and the digest of their file.

    Args:
        spec: whose ``weights`` says where they lie.
        build: makes the model and lets timm load the weights.

    Returns:
        The model, and SHA-256 of the file, or an empty string where the file was not found again.

    Raises:
        UsageError: nothing is published under this name.
        WeightsMismatch: the file is not what timm's configuration says.
        EnvironmentIncomplete: the file cannot be downloaded.
    """
    if not spec.weights:
        raise UsageError(
            f"nobody publishes weights of {spec.name}: timm knows only the architecture",
            cure="give your own --weights FILE, choose another name (edgevit models), "
            "or try the toolchain with --weights random",
        )
    try:
        module = build()
    except EdgevitError:
        raise
    except Exception as error:
        _explain(spec, error)
    file = downloaded(spec.weights)
    return module, sha256_file(file) if file else ""


def _explain(spec: ModelSpec, error: Exception) -> NoReturn:
    text = str(error)
    if isinstance(error, (RuntimeError, KeyError)) and ("state_dict" in text or "size mismatch" in text):
        raise WeightsMismatch(
            f"the published weights of {spec.name} are not what timm's configuration says",
            where="\n".join([spec.weights, *(line.strip()[:200] for line in text.splitlines()[:_LINES])]),
            cure="give your own --weights FILE, or --weights random to try the toolchain",
        ) from error
    hub = repository(spec.weights)
    page = f"https://huggingface.co/{hub}" if hub else spec.weights
    raise EnvironmentIncomplete(
        f"the pretrained weights of {spec.name} could not be downloaded",
        where=f"{page}: {type(error).__name__}",
        cure=f"with a network: {fetching(spec)} (or --weights random to try the toolchain)",
    ) from error


def fetching(spec: ModelSpec) -> str:
    """The command that downloads a model's weights on a machine with a network."""
    hub = repository(spec.weights)
    if not hub:
        name = spec.weights.rpartition("/")[2]
        return f"curl -LO {spec.weights}; then pass --weights {name}"
    name, _, revision = hub.partition("@")
    revised = f" --revision {revision}" if revision else ""
    if spec.origin in ("timm", "zoo") and name.startswith("timm/"):
        return f"hf download {name} {_FILES[0]}{revised}; then pass --weights FILE"
    return f"hf download {name}{revised}; then run this again: the hub's cache is read"


def downloaded(location: str) -> Path | None:
    """The cached file that timm loaded from a location; None where it is not found."""
    hub = repository(location)
    if not hub:
        from torch.hub import get_dir

        path = Path(get_dir()) / "checkpoints" / location.rpartition("/")[2]
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = hub.partition("@")
    for file in _FILES:
        found = try_to_load_from_cache(name, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None
