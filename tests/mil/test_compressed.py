"""Compressed programs: their weights against coremltools' own, their answers against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import GraphModule, Interpreter, Node

from edgevit.bundle.read import read_bundle
from edgevit.data.digits import digits_arrays
from edgevit.data.images import normalise
from edgevit.mil import operators as _registered  # noqa: F401
from edgevit.mil.evaluate import load_program
from edgevit.mil.registry import OPERATORS
from edgevit.mil.runner import load
from edgevit.models.load import load_model
from edgevit.schema.manifest import Manifest
from tests.conftest import Exported

settings.register_profile("compressed", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("compressed")


def compute(name: str, **arguments: Any) -> Any:
    lifted = {k: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    found = OPERATORS[name].compute(**lifted)
    return tuple(one.numpy() for one in found) if isinstance(found, tuple) else found.numpy()


def theirs(opset: str, name: str) -> Any:
    """coremltools' own numpy decompression of an operator."""
    from coremltools.converters.mil.mil.ops.defs import iOS16, iOS18

    module = iOS16.constexpr_ops if opset == "iOS16" else iOS18.compression
    return getattr(module, name).decompress


@given(axis=st.integers(-3, 2), vector=st.booleans(), seed=st.integers(0, 99))
def test_affine(axis: int, vector: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = random.integers(-128, 128, (3, 4, 5)).astype(np.int8)
    size = (data.shape[axis],) if vector else ()
    scale = random.uniform(0.01, 1, size).astype(np.float32)
    zero = random.integers(-9, 9, size).astype(np.int8)
    found = compute("constexpr_affine_dequantize", quantized_data=data, zero_point=zero, scale=scale, axis=axis)
    expected = theirs("iOS16", "constexpr_affine_dequantize")(data, zero, scale, axis)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(
    blocks=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 3])), offset=st.booleans(), seed=st.integers(0, 99)
)
def test_blockwise(blocks: tuple[int, int], offset: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = random.integers(-8, 8, (8, 6)).astype(np.int8)
    scale = random.uniform(0.01, 1, blocks).astype(np.float32)
    shift = random.integers(-4, 4, blocks).astype(np.int8) if offset else None
    found = compute("constexpr_blockwise_shift_scale", data=data, scale=scale, offset=shift)
    np.testing.assert_allclose(found, theirs("iOS18", "constexpr_blockwise_shift_scale")(data, scale, shift), rtol=1e-6)


@given(
    bits=st.sampled_from([1, 2, 4, 6, 8]),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_packed_palettes(bits: int, shape: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    lut = random.normal(size=1 << bits).astype(np.float32)
    indices = random.integers(0, 1 << bits, shape)
    stream = sum(int(one) << (place * bits) for place, one in enumerate(indices.reshape(-1)))
    packed = np.frombuffer(stream.to_bytes(-(-indices.size * bits // 8), "little"), np.uint8)
    found = compute("constexpr_lut_to_dense", indices=packed, lut=lut, shape=shape)
    assert (found == lut[indices]).all()
    assert (found == theirs("iOS16", "constexpr_lut_to_dense")(lut, packed, np.array(shape))).all()


@given(
    groups=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 3])),
    vector=st.integers(1, 3),
    axis=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_grouped_and_vector_palettes(groups: tuple[int, int], vector: int, axis: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    indices = random.integers(0, 4, (8, 6)).astype(np.uint8)
    lut = random.normal(size=(*groups, 4, vector)).astype(np.float32)
    found = compute("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=axis)
    expected = theirs("iOS18", "constexpr_lut_to_dense")(indices, lut, np.int32(axis))
    assert found.shape == expected.shape
    assert (found == expected).all()


@given(vector=st.integers(1, 2), seed=st.integers(0, 99))
def test_sparse(vector: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (4, 6)).astype(np.uint8)
    mask[0, 0] = 1
    count = int(mask.sum())
    values = random.normal(size=count).astype(np.float32)
    dense = np.zeros((4, 6), np.float32)
    dense[mask != 0] = values
    assert (compute("constexpr_sparse_to_dense", nonzero_data=values, mask=mask) == dense).all()
    packed = np.packbits(mask.reshape(-1), bitorder="little")
    assert (compute("constexpr_sparse_to_dense", nonzero_data=values, mask=packed, shape=(4, 6)) == dense).all()

    chosen, lut = (
        random.integers(0, 4, count).astype(np.uint8),
        random.normal(size=(1, 1, 4, vector)).astype(np.float32),
    )
    arguments = {"indices_mask": mask, "indices_nonzero_data": chosen, "lut": lut}
    expected = theirs("iOS18", "constexpr_lut_to_sparse")(*arguments.values(), np.int32(0) if vector > 1 else None)
    found = compute("constexpr_lut_to_sparse", **arguments, vector_axis=0 if vector > 1 else None)
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))

    small, scale = random.integers(-8, 8, count).astype(np.int8), random.uniform(0.1, 1, (4, 1)).astype(np.float32)
    arguments = {"data_mask": mask, "nonzero_data": small, "scale": scale}
    expected = theirs("iOS18", "constexpr_sparse_blockwise_shift_scale")(*arguments.values(), None)
    found = compute("constexpr_sparse_blockwise_shift_scale", **arguments)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


Compress = Callable[[Any], Any]


def _config(one: Any) -> Any:
    import coremltools.optimize.coreml as tools

    return tools.OptimizationConfig(global_config=one)


def int8(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    return tools.linear_quantize_weights(
        model, _config(tools.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=64))
    )


def int4_blocks(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    config = tools.OpLinearQuantizerConfig(
        mode="linear", dtype="int4", granularity="per_block", block_size=16, weight_threshold=64
    )
    return tools.linear_quantize_weights(model, _config(config))


def palettes(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    return tools.palettize_weights(
        model, _config(tools.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=64))
    )


def grouped_palettes(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    config = tools.OpPalettizerConfig(
        mode="kmeans", nbits=4, granularity="per_grouped_channel", group_size=8, weight_threshold=64
    )
    return tools.palettize_weights(model, _config(config))


def sparse(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    return tools.prune_weights(model, _config(tools.OpMagnitudePrunerConfig(target_sparsity=0.2, weight_threshold=64)))


def sparse_int8(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    config = tools.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=64)
    return tools.linear_quantize_weights(sparse(model), _config(config), joint_compression=True)


def sparse_palettes(model: Any) -> Any:
    import coremltools.optimize.coreml as tools

    config = tools.OpPalettizerConfig(mode="kmeans", nbits=6, weight_threshold=64)
    return tools.palettize_weights(sparse(model), _config(config), joint_compression=True)


def compressed(package: Path, how: Compress, out: Path) -> tuple[Path, Path]:
    """A package compressed by coremltools, and the same with its weights written out again."""
    import coremltools as ct
    import coremltools.optimize.coreml as tools

    small = how(ct.models.MLModel(str(package), skip_model_load=True))
    small.save(str(out / "small.mlpackage"))
    tools.decompress_weights(small).save(str(out / "wide.mlpackage"))
    return out / "small.mlpackage", out / "wide.mlpackage"


PICTURES, TRUTH = (one[:150] for one in digits_arrays("test"))


def answers(package: Path, count: int = len(PICTURES)) -> np.ndarray:
    runner = load(package)
    return np.array([runner(picture[None]).argmax() for picture in PICTURES[:count]])


@cache
def in_pytorch(model: str) -> np.ndarray:
    loaded = load_model(model)
    with torch.no_grad():
        return loaded.module(torch.from_numpy(normalise(np.stack(PICTURES), loaded.preprocessing))).argmax(1).numpy()


MODELS = ("tinyvit_digits", "shvit_digits", "mobilevitv2_digits", "efficientformerv2_digits", "deit_digits")
OLD = {
    int8: ({"constexpr_affine_dequantize"}, 0.99, MODELS),
    palettes: ({"constexpr_lut_to_dense"}, 0.95, MODELS),
    sparse: ({"constexpr_sparse_to_dense"}, 0.95, ("tinyvit_digits",)),
}
NEW = {
    int8: ({"constexpr_blockwise_shift_scale"}, 0.99, ("tinyvit_digits",)),
    int4_blocks: ({"constexpr_blockwise_shift_scale"}, 0.97, MODELS),
    grouped_palettes: ({"constexpr_lut_to_dense"}, 0.97, ("tinyvit_digits",)),
    sparse_int8: ({"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"}, 0.97, ("tinyvit_digits",)),
    sparse_palettes: ({"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"}, 0.97, ("tinyvit_digits",)),
}


COVERED = ("tinyvit_digits",)


def pairs(table: dict[Compress, Any]) -> list[Any]:
    """Every way with its models; those that are not covered wait for `make matrix`."""
    return [
        pytest.param(how, m, id=f"{how.__name__}-{m}", marks=() if m in COVERED else pytest.mark.matrix)
        for how, (_, _, models) in table.items()
        for m in models
    ]


def check(package: Path, how: Compress, expected: set[str], agreement: float, model: str, out: Path) -> None:
    small, wide = compressed(package, how, out)
    program, plain = load_program(small), load_program(wide)
    kinds = {one.type for one in program.package.function.operations}
    assert expected <= kinds
    assert not any(one.type.startswith("constexpr") for one in plain.package.function.operations)
    found = answers(small)
    assert (found[:60] == answers(wide, 60)).all(), "the same weights must give the same answers"
    same = (found == in_pytorch(model)).mean()
    print(f"{model} {how.__name__}: agreement {same:.4f}, accuracy {(found == TRUTH).mean():.4f}")
    assert same >= agreement


@pytest.mark.parametrize(("how", "model"), pairs(OLD))
def test_ios17_weights(exported: Exported, tmp_path: Path, how: Compress, model: str) -> None:
    expected, agreement, _ = OLD[how]
    check(read_bundle(exported(model, "coreml")).entry, how, expected, agreement, model, tmp_path)


@pytest.mark.parametrize(("how", "model"), pairs(NEW))
def test_ios18_weights(exported: Exported, tmp_path: Path, how: Compress, model: str) -> None:
    expected, agreement, _ = NEW[how]
    check(read_bundle(exported(model, "coreml-ios18")).entry, how, expected, agreement, model, tmp_path)


QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DENSE = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)


class _Ranges(Interpreter):
    """The largest magnitude of every dense operator's input and weight."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.largest: dict[str, float] = {}

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            self.largest[node.name] = max(self.largest.get(node.name, 0.0), float(value.abs().max()))
        return value


def fake_quantized(core: GraphModule, batches: list[torch.Tensor]) -> int:
    """Put int8 quantize and dequantize before both operands of every dense operator; returns how many."""
    ranges = _Ranges(core)
    with torch.no_grad():
        for batch in batches:
            ranges.run(batch)
    done: dict[str, Node] = {}
    for node in list(core.graph.nodes):
        if node.op != "call_function" or node.target not in DENSE:
            continue
        for place in (0, 1):
            source = node.args[place]
            if source.name not in done:
                scale = ranges.largest[source.name] / 127
                with core.graph.inserting_after(source):
                    steps = core.graph.call_function(QUANTIZE, (source, scale, 0, -128, 127, torch.int8))
                with core.graph.inserting_after(steps):
                    done[source.name] = core.graph.call_function(DEQUANTIZE, (steps, scale, 0, -128, 127, torch.int8))
            node.update_arg(place, done[source.name])
    core.graph.lint()
    core.recompile()
    return len(done)


@pytest.mark.parametrize("model", ["tinyvit_digits", pytest.param("deit_digits", marks=pytest.mark.matrix)])
def test_quantized_activations(exported: Exported, tmp_path: Path, model: str) -> None:
    """W8A8 with our own scales, against the same quantization in PyTorch, picture by picture."""
    from edgevit.backends.base import LowerRequest, find_backend
    from edgevit.graph.boundary import compose
    from edgevit.graph.capture import capture
    from edgevit.graph.prepare import graph_of
    from edgevit.schema.interface import Interface

    loaded = load_model(model)
    rule = loaded.preprocessing
    core = graph_of(capture(loaded.module, rule.size))
    train = torch.from_numpy(normalise(np.stack(digits_arrays("train")[0][:64]), rule))
    assert fake_quantized(core, [one[None] for one in train]) > 20
    with torch.no_grad():
        test = torch.from_numpy(normalise(np.stack(PICTURES), rule))
        expected = np.array([core(one[None])[0].argmax().item() for one in test])
    manifest: Manifest = read_bundle(exported(model, "coreml")).manifest
    program = compose(
        core, Interface(layout="image_nchw_float", size=rule.size, mean=rule.mean, std=rule.std, probabilities=True), {}
    )
    out = tmp_path / "w8a8.mlpackage"
    find_backend("coreml").lower(LowerRequest(program, manifest, "", "iOS17", out))
    kinds = [step.operation.type for step in load_program(out).steps]
    assert kinds.count("quantize") > 10
    found = answers(out)
    same = (found == expected).mean()
    print(f"{model} w8a8: agreement {same:.4f}, accuracy {(found == TRUTH).mean():.4f}")
    assert same >= 0.99
    assert abs((found == TRUTH).mean() - (expected == TRUTH).mean()) <= 0.01
