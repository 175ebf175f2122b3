"""`edgevit inspect`: what is known about a model, a bundle or a lone model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit.cli.console import Json, coloured, examples, literal, print_json, print_table, quantity, size_text, stdout


def register(app: typer.Typer) -> None:
    """Add the command ``inspect`` to the command line."""
    app.command(epilog=examples("inspect tiny_vit_5m_224", "inspect model.tflite --json"))(inspect)


def inspect(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|BUNDLE|FILE", help="A model name, a bundle folder, or a .onnx, .tflite, .pte or .mlpackage."
        ),
    ],
    graph: Annotated[
        bool,
        typer.Option(
            "--graph", help="For a model: capture it and show which rewrites fire for each backend (needs torch)."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show parameters, inputs and outputs, operators, preprocessing and the embedded manifest."""
    from edgevit.bundle.read import is_bundle, read_bundle

    path = Path(what)
    if is_bundle(path):
        bundle = read_bundle(path)
        document = _file(bundle.entry, bundle.manifest.model_dump(mode="json", exclude_none=True))
    elif path.exists() and path.suffix and not (path / "config.json").is_file():
        document = _lone_file(path)
    else:
        document = _model(what, graph)
    if json:
        print_json(document)
    else:
        _show(document)


def _lone_file(path: Path) -> dict[str, Any]:
    from edgevit.backends.base import backend_of
    from edgevit.schema.manifest import parse_manifest

    text = backend_of(path).read_embedded(path)
    manifest = parse_manifest(text, str(path)).model_dump(mode="json", exclude_none=True) if text else None
    return _file(path, manifest)


def _file(path: Path, manifest: dict[str, Any] | None) -> dict[str, Any]:
    from edgevit.backends.base import backend_of
    from edgevit.backends.process.jobs import placement_apart

    backend = backend_of(path)
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    counts = dict(sorted(backend.operators(path).items(), key=lambda item: (-item[1], item[0])))
    return {
        "file": str(path),
        "backend": backend.name,
        "bytes": size,
        "operators": counts,
        "placement": placement_apart(backend.name, path),
        "manifest": manifest,
    }


def _model(name: str, graph: bool) -> dict[str, Any]:
    from edgevit.models.registry import find_model

    document: dict[str, Any] = {"model": find_model(name).to_dict()}
    if graph:
        document["rewrites"] = _rewrites(name)
    return document


def _rewrites(name: str) -> dict[str, dict[str, int]]:
    from edgevit.backends.base import backends
    from edgevit.graph.capture import capture
    from edgevit.graph.prepare import matched_rewrites
    from edgevit.models.load import load_model

    loaded = load_model(name, weights="random")
    program = capture(loaded.module, loaded.preprocessing.size)
    return {backend: matched_rewrites(program, backend, loaded.spec.family) for backend in backends()}


def _show(document: dict[str, Any]) -> None:
    console = stdout()
    if "model" in document:
        _show_model(document)
        return
    manifest = document["manifest"]
    console.print(f"{document['file']}  {document['backend']}, {size_text(document['bytes'])}")
    if manifest is None:
        console.print("no edgevit manifest inside: written by another tool", style="yellow")
    else:
        _show_manifest(manifest)
    if document["placement"]:
        _show_placement(document["placement"])
        return
    print_table(
        ["operator", "count"], [[name, str(count)] for name, count in document["operators"].items()], right=("count",)
    )


def _show_placement(placement: dict[str, Any]) -> None:
    """What is delegated, what falls back, and why."""
    share, pieces = placement["delegated_share"], placement["delegates"]
    if share is not None:
        stdout().print(
            f"  {'delegated':11} {share:.2%} of {quantity(placement['macs'])} multiply-accumulates, "
            f"in {pieces} piece{'' if pieces == 1 else 's'}",
        )
    if placement["integer_share"]:
        stdout().print(f"  {'int8':11} {placement['integer_share']:.2%} by integer kernels")
    print_table(
        ["operator", "count", "MACs", "runs in", "why not delegated"],
        [
            [
                one["operator"],
                str(one["count"]),
                quantity(one["macs"]) if one["macs"] else "–",
                one["place"] if one["delegated"] else coloured(one["place"], "yellow"),
                one["why"],
            ]
            for one in placement["operators"]
        ],
        right=("count", "MACs"),
    )


def _rule_text(rule: dict[str, Any]) -> str:
    crop = f"crop {rule['crop_pct']:g} ({rule['crop_mode']})"
    return f"{rule['interpolation']}, antialiased, {crop}, mean {list(rule['mean'])}, std {list(rule['std'])}"


def _show_manifest(manifest: dict[str, Any]) -> None:
    model, source, output, rule = manifest["model"], manifest["input"], manifest["output"], manifest["preprocess"]
    labels = manifest["labels"]
    rows = {
        "model": f"{model['name']} ({model['family']}), {quantity(model['parameters'])} parameters",
        "weights": f"{model['weights']['kind']}, {model['weights']['source']}; licence {model['licence']}",
        "target": f"{manifest['target']['runtime']}, {manifest['target']['precision']}",
        **_quantization_row(manifest.get("quantization")),
        "input": f"{source['name']}: {source['layout']} {source['dtype']} {source['shape']}, "
        f"{source['colour']}, {source['values']}",
        "preprocess": _rule_text(rule) + (", normalised inside" if rule["normalise_in_graph"] else ""),
        "output": f"{output['name']}: {output['classes']} {output['kind']}",
        "labels": ", ".join(labels[:4]) + (f" … ({len(labels)})" if len(labels) > 4 else ""),
        "toolchain": ", ".join(f"{name} {version}" for name, version in manifest["toolchain"].items()),
    }
    verdict = manifest.get("verdict")
    if verdict:
        rows["verdict"] = verdict["status"] + (
            f", error {verdict['error']:.1e} of the range" if verdict.get("error") is not None else ""
        )
    for key, value in rows.items():
        stdout().print(f"  {key:11} {literal(value)}")


def _quantization_row(found: dict[str, Any] | None) -> dict[str, str]:
    if not found:
        return {}
    bits = f"W{found['weight_bits']}" + (f"A{found['activation_bits']}" if found.get("activation_bits") else "")
    dynamic = ", activations as they come" if found.get("dynamic") else ""
    kept = f", {found['kept']} layers kept in floating point" if found.get("kept") else ""
    return {"quantized": f"{bits} by {found['quantizer']}{dynamic}: {found['layers']} layers{kept}"}


def _no_weights(spec: dict[str, Any]) -> str:
    return "none published" if spec["origin"] in ("timm", "zoo", "hf-hub") else "on this machine"


def _classes_text(spec: dict[str, Any]) -> str:
    """What the published head gives."""
    from edgevit.models.published import EMBEDDING, NO_CLASSIFIER

    if spec["labels"] == NO_CLASSIFIER:
        return "none: these weights have no classifier (export with --output features)"
    if spec["labels"] == EMBEDDING:
        return f"none: an embedding of {spec['num_classes']} numbers (export with --output logits or features)"
    return f"{spec['num_classes']} ({spec['labels']})"


def _show_model(document: dict[str, Any]) -> None:
    spec = document["model"]
    rule = spec["preprocessing"]
    rows = {
        "name": spec["name"],
        "family": f"{spec['family']} ({spec['paper']})" if spec["paper"] else spec["family"],
        "weights": f"{spec['source']}, {spec['weights'] or _no_weights(spec)}; licence {spec['licence']}",
        "parameters": quantity(spec["parameters"]),
        "MACs": quantity(spec["macs"]),
        "input": f"{rule['size'][0]}x{rule['size'][1]} RGB",
        "classes": _classes_text(spec),
        "preprocess": _rule_text(rule),
        "top-1": f"{spec['top1']:.2f} % ({spec['top1_source']})" if spec["top1"] is not None else "no figure recorded",
    }
    for key, value in rows.items():
        stdout().print(f"  {key:11} {literal(value)}")
    if "rewrites" in document:
        backends = list(document["rewrites"])
        names = sorted({name for found in document["rewrites"].values() for name in found})
        print_table(
            ["rewrite", *backends],
            [[name, *(str(document["rewrites"][b].get(name, "–")) for b in backends)] for name in names],
            right=backends,
        )
