"""Programs in half precision: what the model casts, what the user keeps, and what overflows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgevit.errors import UsageError
from edgevit.graph.capture import capture
from edgevit.graph.half import all_but_products
from edgevit.graph.noise import overflows
from edgevit.graph.prepare import apply_rewrites, graph_of, prepare
from edgevit.graph.rewrites import rewrites_for
from tests.graph.test_rewrites import Wrap, interface

SIZE = (8, 8)
EXAMPLE = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def tokens(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return s.embed(x).flatten(2).transpose(1, 2)


def careful(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As EdgeNeXt, MViTv2, DINOv3 and EVA02 do: softmax, a norm and a table in float32, and back."""
    x = tokens(s, x)
    weights = (x @ x.transpose(1, 2)).float().softmax(-1).to(x.dtype)
    x = weights @ x + torch.arange(6, dtype=torch.float32)
    return s.head(F.layer_norm(x.float(), (6,)).type_as(x).mean(1))


def large(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    big = s.first(tokens(s, x) * 60) * 6e3
    return s.head((s.second(big) - big).mean(1) * 1e-6)


def layers(**more: nn.Module) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"embed": nn.Conv2d(3, 6, 2, 2), "head": nn.Linear(6, 4), **more}


def half(module: nn.Module, *keep: str, backend: str = "onnx") -> nn.Module:
    chosen = rewrites_for(backend, half=True)
    ready = prepare(capture(module, SIZE), interface(SIZE, half=True, keep_fp32=keep), chosen)
    return ready.program.module(check_guards=False)


@pytest.mark.parametrize("backend", ["onnx", "executorch"])
def test_what_a_model_casts_to_fp32_does_not_stop_it(backend: str) -> None:
    module = Wrap(careful, **layers()).eval()
    with torch.no_grad():
        torch.testing.assert_close(half(module, backend=backend)(EXAMPLE), module(EXAMPLE), atol=1e-2, rtol=1e-2)


def test_without_rewrites_too() -> None:
    module = Wrap(careful, **layers()).eval()
    program = capture(module, SIZE)
    plain = prepare(program, interface(SIZE, half=True), ()).program.module(check_guards=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(EXAMPLE), module(EXAMPLE), atol=1e-2, rtol=1e-2)


def test_weights_are_stored_once_and_in_half() -> None:
    module = Wrap(careful, **layers()).eval()
    stored = half(module).state_dict()
    wide = [name for name, value in stored.items() if value.dtype == torch.float32]
    assert {name.rpartition(".")[2] for name in wide} <= {"scale", "shift"}
    assert any(value.dtype == torch.float16 for value in stored.values())


def test_norms_and_means_stay_in_fp32_for_executorch() -> None:
    """Its own kernels add up in fp16: a norm over 384 channels was off by five times its range."""
    module = Wrap(careful, **layers()).eval()
    nodes = prepare(
        capture(module, SIZE), interface(SIZE, half=True), rewrites_for("executorch", half=True)
    ).program.graph.nodes
    summing = [node for node in nodes if node.target in (torch.ops.aten.mean.dim, torch.ops.aten.linear.default)]
    dtypes = {node.meta["val"].dtype for node in summing if node.meta["val"].shape[-1] == 1}
    assert dtypes == {torch.float32}


@pytest.mark.parametrize("inplace", [False, True])
def test_hard_swish_is_exact_enough_in_executorch(inplace: bool) -> None:
    """XNNPACK's own kernel multiplies by a sixth rounded to fp16: every answer is too small by a few units."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    module = Wrap(lambda s, x: F.hardswish((x - 0.5) * 16, inplace=inplace)).eval()
    prepared = prepare(capture(module, SIZE), interface(SIZE, half=True), rewrites_for("executorch", half=True))
    assert prepared.rewrites["plain_hardswish"] == 1
    plain = prepare(capture(module, SIZE), interface(SIZE, half=True), ())
    exact = F.hardswish((EXAMPLE.half().float() - 0.5) * 16)
    errors = []
    for ready in (prepared, plain):
        lowered = to_edge_transform_and_lower(ready.program, partitioner=[XnnpackPartitioner()])
        program = Runtime.get().load_program(lowered.to_executorch().buffer)
        found = program.load_method("forward").execute([EXAMPLE.half().float()])[0]
        errors.append(found.float() - exact)
    mended, before = (float(error.square().mean().sqrt()) for error in errors)
    assert mended < 0.6 * before
    assert abs(float(errors[0].mean())) < 0.2 * abs(float(errors[1].mean()))


def test_all_but_products_are_named() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spatial, self.same, self.point = (
                nn.Conv2d(3, 6, 3, padding=1),
                nn.Conv2d(6, 6, 3, padding="same", groups=6),
                nn.Conv2d(6, 6, 1),
            )
            self.head = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.point(F.gelu(self.same(self.spatial(x)))).mean((2, 3)))

    module = Model().eval()
    keep = all_but_products(graph_of(capture(module, SIZE)))
    assert keep == ("spatial", "same", "gelu", "mean")
    stored = half(module, *keep).state_dict()
    wide = {tuple(value.shape) for value in stored.values() if value.dtype == torch.float32 and value.dim() == 4}
    assert wide - {(1, 3, 1, 1)} == {(6, 3, 3, 3), (6, 1, 3, 3)}


def overflowing() -> nn.Module:
    module = Wrap(large, **layers(first=nn.Linear(6, 6), second=nn.Linear(6, 6))).eval()
    module.first.weight.data.fill_(1.0)
    return module


def test_what_overflows_is_named_and_can_be_kept() -> None:
    module = overflowing()
    with torch.no_grad():
        assert not torch.isfinite(half(module)(EXAMPLE)).all()
        core = graph_of(capture(module, SIZE))
        apply_rewrites(core, rewrites_for("onnx", half=True))
        found = overflows(core, EXAMPLE)
        assert [(one.operator, one.module) for one in found] == [("linear", "first")]
        assert found[0].value > 65504
        assert "fp16 ends at 65,504" in found[0].sentence()
        keep = (found[0].keep, "second", "sub", "me*", "mul*")
        torch.testing.assert_close(half(module, *keep)(EXAMPLE), module(EXAMPLE), atol=1e-2, rtol=1e-2)
        assert overflows(core, EXAMPLE, keep) == []


@pytest.mark.parametrize("pattern", ["sec*", "second", "linear", "Linear", "aten.linear.*"])
def test_what_is_kept_is_named_by_type_or_module(pattern: str) -> None:
    module = overflowing()
    kept = half(module, pattern).state_dict()
    assert any(value.dtype == torch.float32 and value.shape == (6, 6) for value in kept.values())


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="third matches no operation"):
        half(overflowing(), "third")


def test_a_weight_too_large_for_fp16_is_named() -> None:
    module = overflowing()
    module.second.weight.data[0, 0] = 1e5
    with pytest.raises(UsageError, match=r"second\.weight reaches 1e\+05"):
        half(module)
    with torch.no_grad():
        assert any(v.dtype == torch.float32 and v.shape == (6, 6) for v in half(module, "second").state_dict().values())


def test_constants_lie_in_plain_order() -> None:
    """A table of one head from [16, 16, 1] has strides that ExecuTorch takes for channels-last: MaxViT's biases."""
    table = torch.randn(16, 16, 1).permute(2, 0, 1)[None]
    assert table.is_contiguous()
    module = Wrap(
        lambda s, x: s.head(x).flatten(1) + s.table.sum((0, 1, 2))[:4].repeat(9), table=table, head=nn.Conv2d(3, 4, 6)
    )
    module.head.weight.data = module.head.weight.data.to(memory_format=torch.channels_last)
    program = capture(module.eval(), SIZE)
    for value in (*program.state_dict.values(), *program.constants.values()):
        assert value.stride() == torch.empty(value.shape).stride()
    ready = prepare(program, interface(SIZE), rewrites_for("executorch"))
    for value in ready.program.state_dict.values():
        assert value.stride() == torch.empty(value.shape).stride()
