"""The options that decide what an export produces, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edgevit.core.options import Option, option_fields
from edgevit.errors import UsageError
from edgevit.schema.choices import InputKind, OutputKind, Precision


def parse_side(given: str | int) -> int:
    """The side of a square in pixels: ``224`` or ``224x224``; any other shape is refused by its own name.

    Raises:
        UsageError: it is no size, or not a square's.
    """
    height, _, width = str(given).lower().partition("x")
    if width and height.isdecimal() and width.isdecimal() and int(height) != int(width):
        raise UsageError(
            f"this version takes square inputs only, not {given}",
            cure=f"give one number: --size {max(int(height), int(width))}",
        )
    if not height.isdecimal() or width not in ("", height):
        raise UsageError(f"{given!r} is not a size in pixels", cure="give one number: --size 224")
    return int(height)


def _labels(path: Path) -> tuple[str, ...]:
    from edgevit.models.labels import read_labels

    return read_labels(path)


@dataclass(frozen=True)
class ExportOptions:
    """What to export and how; the command line and Python build the same object.

    Attributes:
        model: a name, see `edgevit.models.registry.find_model`.
        targets: backends, runtimes or devices.
        weights: ``pretrained``, ``random`` or a file.
        num_classes: head size, None for the model's own.
        labels: class names, None for the model's own.
        size: side of a square input in pixels, None for the model's own.
        input: ``image``: bytes in, normalised inside; ``tensor``: normalised float32 NCHW in.
        output: ``probabilities``, ``logits``, or ``features``: what the classifier would see.
        precision: of the computation or of the stored weights, as the format has it.
        keep_fp32: of an fp16 program, what stays in fp32: operator types, names of operations or
            module paths, with wildcards.
        recipe: how the model is quantized, from `edgevit quantize`.
        calib: pictures to solve a recipe on, in place of one: a folder or ``digits:train``.
        quantizer: the method that solves it.
        keep_fp16: of a quantized model, module paths or layer names that stay in floating point, with wildcards.
        floor: of a quantized model, the least accuracy on ``evaluate``, or agreement with the float model there.
        evaluate: labelled pictures that the artifact is run on for the floor: ``digits:test`` or a folder of classes.
        rewrites: names of graph rewrites in place of the backend's own choice; ``none`` or ``all`` alone.
        images: a folder of pictures that are added to the probes.
        verify: run and compare; without it the manifest says that nothing was checked.
        bisect: when the verdict fails, look for the first operator that departs.
        out: the bundles' parent folder.
        cache: reuse and keep finished bundles.
        jobs: lowerings at once, None to decide by cores and memory.
        timeout: seconds for one lowering.
        memory_gib: memory for one lowering, None for what the machine has.
        seed: of random weights.
    """

    model: Annotated[
        str,
        Option(
            "A name from `edgevit models`, any timm classifier, hf-hub:OWNER/REPO or a local timm folder.",
            argument=True,
        ),
    ]
    targets: Annotated[
        tuple[str, ...],
        Option("A backend, runtime or device; may be repeated.", ("--target", "-t"), decides=False),
    ]  # a cache key holds the runtime itself
    weights: Annotated[
        str,
        Option(
            "Weights: from the hub, live random ones, or a .safetensors or .pth file.",
            ("--weights", "-w"),
            metavar="pretrained|random|FILE",
        ),
    ] = "pretrained"
    num_classes: Annotated[int | None, Option("Head size, where it is not the model's own.")] = None
    labels: Annotated[
        tuple[str, ...] | None,
        Option("Class names in output order: one a line, or a JSON list.", metavar="FILE", reader=_labels),
    ] = None
    size: Annotated[int | None, Option("Side of the square input in pixels.", metavar="PIXELS", parser=parse_side)] = (
        None
    )
    input: Annotated[
        InputKind, Option("image: bytes in, normalised inside the model; tensor: normalised float32 NCHW.")
    ] = "image"
    output: Annotated[OutputKind, Option("What the model gives.")] = "probabilities"
    precision: Annotated[
        Precision, Option("Of the computation, or of the stored weights (LiteRT).", ("--precision", "-p"))
    ] = "fp32"
    keep_fp32: Annotated[
        tuple[str, ...],
        Option(
            "With fp16: an operator type, operation or module that stays in fp32; may be repeated (not LiteRT).",
            metavar="PATTERN",
        ),
    ] = ()
    recipe: Annotated[Path | None, Option("How to quantize, from `edgevit quantize`.", metavar="FILE")] = None
    calib: Annotated[str | None, Option("Pictures to calibrate on.", metavar="DIR|digits:train")] = None
    quantizer: Annotated[str, Option("The method; docs/quantization.md compares them.", metavar="NAME")] = "qhyvit"
    keep_fp16: Annotated[
        tuple[str, ...],
        Option(
            "A module or layer that stays in floating point (fp16 where the format computes so); may be repeated.",
            metavar="PATTERN",
        ),
    ] = ()
    floor: Annotated[
        float | None, Option("Least accuracy, or agreement with float; otherwise exit code 3.", metavar="SHARE")
    ] = None
    evaluate: Annotated[
        str | None, Option("Labelled pictures: digits:test, or a folder of classes.", metavar="DATASET")
    ] = None
    rewrites: Annotated[
        tuple[str, ...],
        Option(
            "Graph rewrites in place of those measured to help on the target; may be repeated.",
            metavar="none|all|NAME,...",
        ),
    ] = ()
    images: Annotated[Path | None, Option("Pictures that join the probes.", metavar="DIR")] = None
    verify: Annotated[bool, Option("Run the artifact and compare it with PyTorch.", ("--verify/--no-verify",))] = True
    bisect: Annotated[
        bool, Option("If the verdict fails, find the first operator that departs.", ("--bisect",), decides=False)
    ] = False
    out: Annotated[
        Path,
        Option("Bundles go to DIR/MODEL/TARGET-PRECISION.", ("--out", "-o"), metavar="DIR", decides=False),
    ] = Path("build")
    cache: Annotated[bool, Option("Reuse finished bundles.", ("--cache/--no-cache",), decides=False)] = True
    jobs: Annotated[
        int | None,
        Option("Lowerings at once; by cores and memory if not given.", ("--jobs", "-j"), least=1, decides=False),
    ] = None
    timeout: Annotated[float, Option("Seconds for one lowering.", least=1, decides=False)] = 1800.0
    memory_gib: Annotated[
        float | None, Option("Memory for one lowering.", ("--memory",), metavar="GIB", least=0.1, decides=False)
    ] = None
    seed: Annotated[int, Option("Of random weights.")] = 0

    def __post_init__(self) -> None:
        """Take ``a,b`` in one rewrite's name for two names."""
        names = tuple(name for given in self.rewrites for name in given.split(",") if name)
        object.__setattr__(self, "rewrites", names)

    def deciding(self) -> dict[str, Any]:
        """The fields that decide what is in a bundle, by name; a new field is among them unless it says otherwise."""
        return {one.name: getattr(self, one.name) for one in option_fields(type(self)) if one.option.decides}
