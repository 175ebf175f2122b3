"""TFLite Model Metadata: what Android Studio and the Task libraries read from a .tflite file.

A FlatBuffers table of its own (file identifier M001) in the model's ``TFLITE_METADATA`` buffer,
with the label file in a zip appended to the model. Field numbers follow metadata_schema.fbs.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers

from edgevit.backends.base import labels_text
from edgevit.schema.manifest import Manifest

LABELS_FILE = "labels.txt"
_IMAGE_PROPERTIES = 2
_NORMALIZATION = 1
_RGB = 1
_AXIS_LABELS = 2


def _table(builder: Any, slots: dict[int, tuple[str, int]], count: int) -> int:
    """A table of ``count`` fields: slot -> (kind, value), kind one of offset, uint8, uint32."""
    builder.StartObject(count)
    for slot, (kind, value) in slots.items():
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "uint8":
            builder.PrependUint8Slot(slot, value, 0)
        else:
            builder.PrependUint32Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


def _input(builder: Any, manifest: Manifest) -> int:
    height, width = manifest.preprocess.size
    size = _table(builder, {0: ("uint32", width), 1: ("uint32", height)}, 2)
    image = _table(builder, {0: ("uint8", _RGB), 1: ("offset", size)}, 2)
    content = _table(builder, {0: ("uint8", _IMAGE_PROPERTIES), 1: ("offset", image)}, 3)
    in_graph = manifest.preprocess.normalise_in_graph
    means = [0.0] if in_graph else [255 * value for value in manifest.preprocess.mean]
    deviations = [1.0] if in_graph else [255 * value for value in manifest.preprocess.std]
    mean, std = _floats(builder, means), _floats(builder, deviations)
    options = _table(builder, {0: ("offset", mean), 1: ("offset", std)}, 2)
    unit = _table(builder, {0: ("uint8", _NORMALIZATION), 1: ("offset", options)}, 2)
    name = builder.CreateString(manifest.input.name)
    about = builder.CreateString(f"{manifest.input.layout} {manifest.input.dtype}, RGB, {manifest.input.values}")
    units = _vector(builder, [unit])
    return _table(builder, {0: ("offset", name), 1: ("offset", about), 3: ("offset", content), 4: ("offset", units)}, 7)


def _output(builder: Any, manifest: Manifest) -> int:
    file_name = builder.CreateString(LABELS_FILE)
    labels = _table(builder, {0: ("offset", file_name), 2: ("uint8", _AXIS_LABELS)}, 5)
    name = builder.CreateString(manifest.output.name)
    about = builder.CreateString(f"float32 {manifest.output.kind}, one a class")
    files = _vector(builder, [labels] if manifest.labels else [])
    return _table(builder, {0: ("offset", name), 1: ("offset", about), 6: ("offset", files)}, 7)


def model_metadata(manifest: Manifest) -> bytes:
    """The serialised ModelMetadata table."""
    builder = flatbuffers.Builder(1024)
    inputs = _vector(builder, [_input(builder, manifest)])
    outputs = _vector(builder, [_output(builder, manifest)])
    subgraph = _table(builder, {2: ("offset", inputs), 3: ("offset", outputs)}, 9)
    subgraphs = _vector(builder, [subgraph])
    text = {
        0: manifest.model.name,
        1: f"{manifest.model.family} image classifier, {manifest.output.classes} classes",
        2: manifest.edgevit,
        4: "edgevit",
        5: manifest.model.licence,
        7: "1.0.0",
    }
    strings = {slot: ("offset", builder.CreateString(value)) for slot, value in text.items()}
    builder.Finish(_table(builder, {**strings, 3: ("offset", subgraphs)}, 8), file_identifier=b"M001")
    return bytes(builder.Output())


def append_labels(model: bytes, labels: tuple[str, ...]) -> bytes:
    """The model with a zip of its label file behind it, byte for byte reproducible."""
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), labels_text(labels))
    return buffer.getvalue()
