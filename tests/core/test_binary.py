"""The FlatBuffers and protobuf walkers, on messages written by the real libraries and on noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.core.binary import fields, messages, root, string, string_map
from edgevit.errors import BadFile


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=6))
def test_protobuf_maps_are_read(metadata: dict[str, str]) -> None:
    import onnx

    model = onnx.ModelProto(producer_name="p")
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    data = model.SerializeToString()
    assert string_map(data, 14) == metadata
    assert string(data, 2) == "p"
    assert len(list(messages(data, 14))) == len(metadata)


@given(st.binary(max_size=200))
def test_noise_never_crashes_the_protobuf_walker(data: bytes) -> None:
    try:
        list(fields(data))
    except BadFile:
        pass


@given(st.text(max_size=30), st.integers(0, 2**32 - 1), st.lists(st.text(max_size=5), max_size=5))
def test_flatbuffers_tables_are_read(text: str, number: int, names: list[str]) -> None:
    import flatbuffers

    builder = flatbuffers.Builder()

    def table(name: str) -> int:
        content = builder.CreateString(name)
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, content, 0)
        return builder.EndObject()

    tables = [table(name) for name in names]
    builder.StartVector(4, len(tables), 4)
    for offset in reversed(tables):
        builder.PrependUOffsetTRelative(offset)
    vector, content = builder.EndVector(), builder.CreateString(text)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(0, content, 0)
    builder.PrependUint32Slot(1, number, 0)
    builder.PrependUOffsetTRelativeSlot(2, vector, 0)
    builder.Finish(builder.EndObject())
    found = root(bytes(builder.Output()))
    assert (found.text(0), found.integer(1)) == (text, number)
    assert [one.text(0) for one in found.tables(2)] == names
    assert found.table(3) is None
    assert found.text(3) == ""


@given(st.binary(max_size=120), st.integers(0, 8))
def test_noise_never_crashes_the_flatbuffers_walker(data: bytes, number: int) -> None:
    try:
        table = root(data)
        table.integer(number)
        table.text(number)
        for one in table.tables(number):
            one.text(0)
    except BadFile:
        pass


def test_a_varint_without_end_is_damage() -> None:
    with pytest.raises(BadFile):
        list(fields(b"\xff" * 20))
