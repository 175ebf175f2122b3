"""Measure every model of families.toml and of the bundled set into edgevit/models/zoo.json.

    python tools/build_zoo.py

Parameters are counted on the built model; MACs by torch's own FLOP counter
(half its FLOPs: convolutions, linear layers and attention products), see `edgevit.graph.cost`.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from safetensors import safe_open

from edgevit.data.digits import MEAN, STD
from edgevit.graph.cost import measure_cost
from edgevit.models.bundled import BUILDERS, build_bundled
from edgevit.models.registry import spec_from_cfg
from edgevit.models.torchvision_fix import fix_torchvision_import
from edgevit.schema.model import ModelSpec, Preprocessing

MODELS = Path(__file__).parents[1] / "edgevit/models"
BUNDLED_FAMILIES = {
    "tinyvit_digits": "TinyViT",
    "shvit_digits": "SHViT",
    "mobilevitv2_digits": "MobileViTv2",
    "efficientformerv2_digits": "EfficientFormerV2",
    "deit_digits": "DeiT",
}


def zoo_rows() -> list[ModelSpec]:
    import timm
    from timm.models import get_pretrained_cfg

    table = tomllib.loads((MODELS / "families.toml").read_text())["family"]
    specs = []
    for family, facts in table.items():
        for name, source, top1, top1_source in facts["models"]:
            cfg = get_pretrained_cfg(source, allow_unregistered=False)
            assert cfg is not None and cfg.tag == source.partition(".")[2], source
            model = timm.create_model(source.partition(".")[0], num_classes=cfg.num_classes)
            cost = measure_cost(model.eval().requires_grad_(False), cfg.input_size[1:])
            specs.append(
                spec_from_cfg(
                    name,
                    source,
                    cfg.to_dict(),
                    origin="zoo",
                    family=family,
                    paper=facts["paper"],
                    parameters=cost.parameters,
                    macs=cost.macs,
                    top1=top1 or None,
                    top1_source=top1_source,
                )
            )
            print(f"{name:40s} {cost.parameters / 1e6:7.2f} M {cost.macs / 1e6:9.1f} M MACs", flush=True)
    return specs


def bundled_rows() -> list[ModelSpec]:
    specs = []
    for name in BUILDERS:
        cost = measure_cost(build_bundled(name).eval().requires_grad_(False), (32, 32))
        with safe_open(MODELS / f"weights/{name}.safetensors", framework="numpy") as file:
            facts = json.loads(file.metadata()["edgevit"])
        specs.append(
            ModelSpec(
                name=name,
                family=BUNDLED_FAMILIES[name],
                origin="bundled",
                source=name,
                parameters=cost.parameters,
                macs=cost.macs,
                preprocessing=Preprocessing((32, 32), crop_pct=1.0, mean=MEAN, std=STD),
                num_classes=10,
                labels="digits",
                top1=round(100 * facts["accuracy"], 2),
                top1_source="measured on digits:test",
                licence="apache-2.0",
                paper="trained by tools/train_digits.py",
            )
        )
    return specs


def main() -> None:
    fix_torchvision_import()
    rows = [spec.to_dict() for spec in [*bundled_rows(), *zoo_rows()]]
    (MODELS / "zoo.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} models")


if __name__ == "__main__":
    main()
