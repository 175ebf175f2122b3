"""`edgevit split`: one model over several small devices."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli._skipped import Skipped
from edgevit.cli.console import Json, Quiet, examples, print_json, print_table, quantity, size_text, stderr, stdout
from edgevit.cli.options import ClassesOption, LabelsOption, WeightsOption
from edgevit.errors import UsageError
from edgevit.schema.choices import Precision

if TYPE_CHECKING:
    from edgevit.schema.plan import Fleet, Plan, Predicted
    from edgevit.split.plan.preview import Draft


class Partition(StrEnum):
    """The values of ``--partition``: how classes are grouped."""

    BALANCED = "balanced"
    TOGETHER = "together"
    APART = "apart"


class Assign(StrEnum):
    """The values of ``--assign``: how sub-models are assigned to members."""

    EXACT = "exact"
    GREEDY = "greedy"


class Score(StrEnum):
    """The values of ``--score``: how the importance of a unit is measured."""

    FISHER = "fisher"
    KL = "kl"
    RANDOM = "random"


def register(app: typer.Typer) -> None:
    """Add the command ``split`` to the command line."""
    app.command(
        epilog=examples(
            "split deit_digits --parts 5 --keep 1/3 --data digits:train:6 --evaluate digits:test -o plan",
            "split tinyvit_digits --fleet fleet.toml --data digits:train --dry-run",
        ),
    )(split)


def split(
    model: Annotated[str, typer.Argument(help="A trained ViT or DeiT, TinyViT or SHViT, by name or folder.")],
    data: Annotated[
        str, typer.Option("--data", metavar="DIR|digits:train[:DRAWS]", help="Labelled pictures to prune and train on.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="The plan's folder.")] = None,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", metavar="FILE", help="The devices and their limits; docs/fleet.md.")
    ] = None,
    parts: Annotated[
        int | None, typer.Option("--parts", min=2, max=64, help="Number of sub-models; by default one a member.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="SHARE", help="Share of every width, e.g. 1/3; more than one to choose from."),
    ] = None,
    copies: Annotated[int, typer.Option("--copies", min=1, help="Sub-models that know each class.")] = 1,
    partition: Annotated[
        Partition, typer.Option("--partition", help="Classes at random, or confused ones together or apart.")
    ] = Partition.BALANCED,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="CLASS,CLASS", help="The classes of one sub-model; once for each."),
    ] = None,
    assign: Annotated[Assign, typer.Option("--assign", help="Integer program, or the paper's greedy.")] = Assign.EXACT,
    evaluate: Annotated[
        str | None,
        typer.Option("--evaluate", metavar="DATASET", help="Labelled pictures for the accuracy table."),
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", help="Share of the data that is held back, without --evaluate.")
    ] = 0.2,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Format of the bundles; by default what each device prefers.")
    ] = None,
    precision: Annotated[Precision, typer.Option("--precision", "-p", help="Of the bundles.")] = "fp32",
    score: Annotated[Score, typer.Option("--score", help="Importance: one backward pass, or exact.")] = Score.FISHER,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Of fine-tuning, after the last stage.")] = 30,
    between: Annotated[int, typer.Option("--between", min=0, help="Epochs after each stage before it.")] = 2,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Highest learning rate.")] = 4e-3,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a step.")] = 64,
    distill: Annotated[
        float, typer.Option("--distill", help="Weight of the original's answers in the loss, 0 to 1.")
    ] = 0.5,
    auxiliary: Annotated[
        float,
        typer.Option("--auxiliary", help="Weight of telling foreign classes apart too, for when a member is missing."),
    ] = 1.0,
    views: Annotated[int, typer.Option("--views", min=1, help="Augmented views of each picture.")] = 16,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror views at random.")] = False,
    drop: Annotated[
        float, typer.Option("--drop", help="Probability that a member is missing while the fusion is trained.")
    ] = 0.3,
    weights: WeightsOption = "pretrained",
    num_classes: ClassesOption = None,
    labels: LabelsOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")] = 0,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Sub-models trained at once.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of PyTorch, for each job.")] = 1,
    device: Annotated[
        str, typer.Option("--device", metavar="cpu|cuda|cuda:N", help="What sub-models are trained on.")
    ] = "cpu",
    dask: Annotated[
        str | None, typer.Option("--dask", metavar="ADDRESS", help="Train on the Dask cluster of this scheduler.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sub-models, sizes and predicted latency; train nothing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Split a trained model by classes over several devices, as ED-ViT does. A killed run goes on where it stopped."""
    if out is None and not dry_run:
        raise UsageError("nowhere to write the plan", cure="add -o DIR, or --dry-run")
    from edgevit.cli.quantize import following
    from edgevit.models.labels import read_labels
    from edgevit.split.options import LEVELS, SplitOptions
    from edgevit.split.plan.widths import parse_keep
    from edgevit.split.train.fine_tune import Schedule

    given = group or []
    options = SplitOptions(
        model=model,
        data=data,
        fleet=_fleet(fleet, parts or len(given)),
        weights=weights,
        num_classes=num_classes,
        labels=read_labels(labels) if labels else None,
        evaluate=evaluate,
        hold_out=hold_out,
        parts=parts,
        copies=copies,
        partition=partition.value,
        groups=tuple(given),
        levels=tuple(dict.fromkeys(parse_keep(one) for one in keep)) if keep else LEVELS,
        assign=assign.value,
        score=score.value,
        between=between,
        last=Schedule(epochs, rate, batch, distill=distill, auxiliary=auxiliary),
        views=views,
        flip=flip,
        drop=drop,
        target=target,
        precision=precision,
        seed=seed,
        jobs=jobs,
        threads=threads,
        device=device,
        dask=dask,
    )
    base = fleet.parent if fleet else Path()
    from edgevit.split.run import draft_plan, split_model

    skipped = Skipped()
    with following(quiet or json) as progress:
        if dry_run:
            draft = draft_plan(options, base, progress, skipped.add)
        else:
            assert out is not None
            plan = split_model(options, out, base, progress, skipped.add)
    if dry_run:
        print_json(draft_document(draft)) if json else _show_draft(draft)
    elif json:
        print_json({"plan": str(out), **plan.model_dump(mode="json", exclude_none=True)})
    else:
        _show_plan(plan, out, quiet)
    skipped.leave()


def _fleet(file: Path | None, parts: int) -> Fleet:
    from edgevit.schema.plan import read_fleet
    from edgevit.split.options import equal_fleet

    if file is not None:
        return read_fleet(file)
    if not parts:
        raise UsageError("nothing says how many sub-models there are", cure="give --fleet FILE, or --parts 5")
    return equal_fleet(parts)


def draft_document(draft: Draft) -> dict[str, Any]:
    """A draft as a dictionary, for ``--json``."""
    members = draft.problem.fleet.member
    return {
        "original": draft.original.model_dump(mode="json"),
        "sub_models": [
            {
                "name": f"sub-{index + 1}",
                "member": members[member].name,
                "classes": [draft.labels[one] for one in classes],
                "keep": str(draft.problem.levels[level].keep),
                "parameters": draft.problem.levels[level].parameters,
                "macs": draft.problem.levels[level].macs,
                "memory_mb": draft.problem.levels[level].memory_mb,
            }
            for index, (classes, level, member) in enumerate(
                zip(draft.parts, draft.assignment.levels, draft.assignment.members, strict=True)
            )
        ],
        "network": draft.problem.fleet.network.model_dump(mode="json"),
        "predicted": {name: one.model_dump(mode="json", exclude_none=True) for name, one in draft.predicted.items()},
        "latency_ms": latency(draft.predicted),
    }


def latency(predicted: dict[str, Predicted]) -> dict[str, float | None]:
    """The latency of the slowest member, with and without the network; None where a member's speed is unknown."""
    compute = [one.compute_ms for one in predicted.values()]
    known = [one for one in compute if one is not None]
    whole = [one.network_ms + (one.compute_ms or 0.0) for one in predicted.values()]
    all_known = len(known) == len(compute)
    return {
        "without_network": max(known) if all_known else None,
        "with_network": max(whole) if all_known else None,
        "network": max(one.network_ms for one in predicted.values()),
    }


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _show_draft(draft: Draft) -> None:
    document, out = draft_document(draft), stdout()
    whole = draft.original
    out.print(
        f"{whole.name}: {quantity(whole.parameters)} parameters, {quantity(whole.macs)} MACs, {size_text(whole.bytes)}",
        markup=False,
    )
    rows = [
        [
            one["name"],
            one["member"],
            one["keep"],
            quantity(one["parameters"]),
            f"{whole.parameters / one['parameters']:.1f}x",
            quantity(one["macs"]),
            f"{one['memory_mb']:.2f} MB",
            _some(one["classes"]),
        ]
        for one in document["sub_models"]
    ]
    print_table(["sub-model", "member", "keeps", "parameters", "smaller", "MACs", "memory", "classes"], rows)
    _show_predicted(draft.predicted)
    network = draft.problem.fleet.network
    out.print(
        f"compute: MACs over each member's speed. network: {network.image_bytes / 1e3:g} kB an image over "
        f"{network.mbit_s:g} Mbit/s, {network.one_way_ms:g} ms one way (both stated in the fleet's file, not measured)",
        style="dim",
        markup=False,
    )


def _show_predicted(predicted: dict[str, Predicted]) -> None:
    print_table(
        ["member", "compute ms", "network ms", "memory MB", "energy mJ"],
        [
            [name, _number(one.compute_ms), _number(one.network_ms), _number(one.memory_mb), _number(one.energy_mj)]
            for name, one in predicted.items()
        ],
        right=("compute ms", "network ms", "memory MB", "energy mJ"),
    )
    times = latency(predicted)
    stdout().print(
        f"predicted latency: {_number(times['without_network'])} ms without the network, "
        f"{_number(times['with_network'])} ms with it",
        markup=False,
    )


def _show_plan(plan: Plan, out: Path | None, quiet: bool) -> None:
    rows = [
        [
            one.name,
            one.member,
            one.keep,
            quantity(one.parameters),
            f"{plan.model.parameters / one.parameters:.1f}x",
            f"{plan.model.macs / one.macs:.1f}x",
            size_text(one.bytes),
            f"{one.accuracy:.1%}",
            _some([plan.labels[index] for index in one.classes]),
        ]
        for one in plan.sub_models
    ]
    print_table(
        ["sub-model", "member", "keeps", "parameters", "smaller", "fewer MACs", "file", "accuracy", "classes"], rows
    )
    found = plan.accuracy
    table = [
        ["original", f"{found.original:.1%}", "", ""],
        ["all members", f"{found.fused:.1%}", "", f"{found.scores_fused:.1%}"],
    ]
    for name, some in (("one missing", found.one_missing), ("two missing", found.two_missing)):
        if some:
            shares = [one.accuracy for one in some]
            scores = sum(one.scores_accuracy for one in some) / len(some)
            table.append([name, f"{sum(shares) / len(shares):.1%}", f"{min(shares):.1%}", f"{scores:.1%}"])
    print_table(["accuracy", "mean", "worst", "without the head"], table)
    if not quiet:
        stderr().print(
            f"measured on {found.pictures} pictures ({found.dataset}) with {found.measured_with}; "
            f"{plan.minutes:.1f} min\nplan: {out}\n→ edgevit fleet run {out} --local --input PICTURES",
            style="dim",
            markup=False,
        )
