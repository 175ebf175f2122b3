"""The papers' formulas, with their golden values and traps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.qdq.codes import (
    LEAST_SCALE,
    fake_code,
    fake_weight,
    on_grid,
    uniform_code,
    weight_integers,
    weight_scales,
)
from edgevit.quant.quantizers.fqvit import factor_code
from edgevit.quant.quantizers.ptq4vit import GELU_MINIMUM, gelu_codes, softmax_codes
from edgevit.quant.workbench import channel_fold
from edgevit.schema.recipe import FactorCode, LogCode, TwinUniformCode, UniformCode, WeightCode

settings.register_profile("quant", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("quant")


def test_a_strictly_positive_range_keeps_its_zero_point_inside() -> None:
    """[4, 6]: naive z = -638 overflows and every value becomes 2.0 (Q-HyViT, C2)."""
    code = uniform_code(4.0, 6.0)
    assert code.zero_point == -128
    values = torch.tensor([4.0, 5.0, 6.0])
    torch.testing.assert_close(fake_code(values, code), values, atol=code.scale, rtol=0)


@given(
    low=st.floats(-50, 50),
    width=st.floats(1e-3, 100),
    bits=st.sampled_from([4, 6, 8]),
    symmetric=st.booleans(),
)
def test_values_in_range_are_off_by_half_a_step(low: float, width: float, bits: int, symmetric: bool) -> None:
    code = uniform_code(low, low + width, bits, symmetric=symmetric)
    values = torch.linspace(low, low + width, 101)
    # The scale is rounded to float16, which moves the ends of the range by up to 2^-11 of it.
    slack = code.scale * (0.5 + 2 ** (bits - 11)) + 1e-6
    assert float((fake_code(values, code) - values).abs().max()) <= slack + code.scale / 2
    assert float(fake_code(torch.zeros(1), code)) == 0.0
    assert code.low <= code.zero_point <= code.high


def test_a_range_of_nothing_has_the_least_scale() -> None:
    code = uniform_code(0.0, 0.0)
    assert code.scale == LEAST_SCALE
    assert float(fake_code(torch.zeros(3), code).abs().max()) == 0.0


@given(st.floats(1e-4, 1e3))
def test_scales_survive_half_precision(scale: float) -> None:
    found = on_grid(torch.tensor(scale))
    assert float(found.half().float()) == float(found)


def test_weights_leave_out_the_lowest_integer() -> None:
    weight = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    code = WeightCode(scale=tuple(weight_scales(weight).tolist()))
    integers = weight_integers(weight, code)
    assert int(integers.min()) == -127 and int(integers.max()) == 127
    torch.testing.assert_close(fake_weight(weight, code), weight, atol=4e-3, rtol=0)


def test_twin_uniform_is_piecewise() -> None:
    """Summing two clamped terms, as the released code does, turns 1e-4 into 0.126 at split 2^-3."""
    code = next(one for one in softmax_codes(8) if one.split == 2.0**-3)
    assert float(fake_code(torch.tensor([1e-4]), code)) < 0.01
    values = torch.linspace(0, 1, 400)
    assert float((fake_code(values, code) - values).abs().max()) <= code.high_scale / 2 + 1e-6
    small = values[values < code.split]
    assert float((fake_code(small, code) - small).abs().max()) <= code.low_scale / 2 + 1e-6


def test_twin_uniform_after_gelu_spends_half_its_codes_below_zero() -> None:
    code = gelu_codes(4.0, 8)[-1]
    assert code.low_scale == pytest.approx(GELU_MINIMUM / 128)
    values = torch.nn.functional.gelu(torch.linspace(-6, 0, 200))
    assert float((fake_code(values, code) - values).abs().max()) <= code.low_scale / 2 + 1e-6


def test_log2_codes() -> None:
    """FQ-ViT: 4 bits hold 2^0 to 2^-15; less than that is exactly zero."""
    code = LogCode(bits=4, base="2", scale=1.0)
    values = torch.tensor([1.0, 0.5, 0.26, 2.0**-15, 2.0**-17, 0.0])
    assert fake_code(values, code).tolist() == [1.0, 0.5, 0.25, 2.0**-15, 0.0, 0.0]


def test_log_sqrt2_codes_are_finer() -> None:
    """RepQ-ViT, equation 10: odd codes carry a factor of the square root of two."""
    code = LogCode(bits=8, base="sqrt2", scale=1.0)
    assert float(fake_code(torch.tensor([2.0**-0.5]), code)) == pytest.approx(2**-0.5)
    values = torch.linspace(0.05, 1, 200)
    coarse = fake_code(values, LogCode(bits=8, base="2", scale=1.0))
    assert float((fake_code(values, code) - values).abs().mean()) < float((coarse - values).abs().mean())


def test_power_of_two_factors_follow_the_channels() -> None:
    rows = torch.randn(512, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 1.0, 4.0])
    code = factor_code(rows, 8)
    assert isinstance(code, FactorCode)
    assert code.factors[0] < code.factors[2]
    whole = uniform_code(float(rows.min()), float(rows.max()))
    errors = [float((fake_code(rows, one)[:, 0] - rows[:, 0]).square().mean()) for one in (code, whole)]
    assert errors[0] < errors[1] / 4


def test_repq_fold_gives_all_channels_one_range() -> None:
    """Equations 5 to 8; zero stays a value of the common code."""
    low, high = torch.tensor([-1.0, -8.0, 2.0]), torch.tensor([1.0, 4.0, 6.0])
    factor, shift = channel_fold(low, high, 8, shifts=True)
    assert shift is not None
    folded_low, folded_high = (low.clamp_max(0) - shift) / factor, (high.clamp_min(0) - shift) / factor
    widths = folded_high - folded_low
    torch.testing.assert_close(widths, widths.mean().expand(3), rtol=1e-3, atol=0)
    assert float(folded_low.min()) <= 0 <= float(folded_high.max())
    assert float(factor.mean()) == pytest.approx(1.0, rel=1e-3)


def test_codes_refuse_what_makes_no_sense() -> None:
    for values in ({"scale": 0.0, "zero_point": 0}, {"scale": float("nan"), "zero_point": 0}):
        with pytest.raises(ValueError, match="scale"):
            UniformCode(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits"):
        TwinUniformCode(bits=17, split=0.5, low_scale=1, high_scale=1)
