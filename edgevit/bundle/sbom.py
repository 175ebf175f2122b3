"""The software bill of materials of a bundle: CycloneDX 1.6 JSON."""

from __future__ import annotations

from pathlib import Path

from edgevit.schema.manifest import Manifest

FILE = "sbom.json"


def write_sbom(folder: Path, manifest: Manifest) -> None:
    """Write ``sbom.json``: the model as a component, its weights' hash, the tools that made it."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    weights = manifest.model.weights
    model = Component(
        name=manifest.model.name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        licenses=[DisjunctiveLicense(name=manifest.model.licence)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=weights.sha256)] if weights.sha256 else [],
        properties=[
            Property(name="edgevit:family", value=manifest.model.family),
            Property(name="edgevit:weights", value=f"{weights.kind}: {weights.source}"),
            Property(name="edgevit:target", value=f"{manifest.target.runtime} {manifest.target.precision}"),
        ],
    )
    bom = Bom()
    bom.metadata.component = model
    for name, version in {"edgevit": manifest.edgevit, **manifest.toolchain}.items():
        tool = Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"tool:{name}")
        bom.metadata.tools.components.add(tool)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
