"""Every quantizer on a trained model, and what it must mend."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from edgevit.data.digits import digits_arrays
from edgevit.data.images import normalise
from edgevit.errors import BadFile, CheckFailed, UnknownName, UsageError
from edgevit.graph.capture import capture
from edgevit.graph.qdq.base_graph import digest, quantizable
from edgevit.graph.qdq.channel_folds import apply_fold, sites_of
from edgevit.models.load import load_model
from edgevit.quant.agreement import agreement_of, answers
from edgevit.quant.budget import spend
from edgevit.quant.calibration import read_pictures
from edgevit.quant.options import Bits, Budget
from edgevit.quant.registry import find_quantizer, quantizers
from edgevit.quant.sensitivity import sensitivities
from edgevit.quant.solve import CanonicalModel, quantized_graph, solve_recipe, solve_weights, source_of_program
from edgevit.schema.recipe import Recipe, UniformCode

MODEL = "deit_digits"
LOADED = load_model(MODEL)
RULE = LOADED.preprocessing
PROGRAM = capture(LOADED.module, RULE.size)
SOURCE = source_of_program(PROGRAM, MODEL, RULE.size, 10)
CHOSEN = read_pictures("digits:train", RULE, wanted=8)
INPUTS = [torch.from_numpy(normalise(one[None], RULE)) for one in digits_arrays("test")[0][:100]]
EXACT = answers(SOURCE.make(), INPUTS)


def wild() -> CanonicalModel:
    """The same function with channels multiplied by 1 to 64."""

    def make() -> torch.fx.GraphModule:
        core = quantizable(PROGRAM)
        random = torch.Generator().manual_seed(7)
        for site in sites_of(core):
            apply_fold(core, site, 2.0 ** -(torch.rand(site.channels, generator=random) * 6))
        core.recompile()
        return core

    return CanonicalModel(make, SOURCE.model.model_copy(update={"graph": digest(make())}))


def decibels(source: CanonicalModel, recipe: Recipe) -> float:
    found = agreement_of(EXACT, answers(quantized_graph(source.make(), recipe), INPUTS), "test")
    assert found.sqnr_db is not None
    return found.sqnr_db


@cache
def solved(name: str) -> Recipe:
    return solve_recipe(SOURCE, find_quantizer(name), CHOSEN)


@pytest.mark.parametrize("name", sorted(quantizers()))
def test_every_quantizer_keeps_a_trained_model(name: str) -> None:
    quantizer, recipe = find_quantizer(name), solved(name)
    assert len(recipe.weights) == len(recipe.modules)
    assert decibels(SOURCE, recipe) > 14
    simulated = any(not isinstance(code, UniformCode) for code in recipe.activations.values()) or recipe.operands
    assert bool(simulated) == bool(quantizer.simulated)
    if quantizer.simulated:
        fit = solve_recipe(SOURCE, quantizer, CHOSEN, exportable=True)
        assert not fit.operands and all(isinstance(code, UniformCode) for code in fit.activations.values())


@pytest.mark.parametrize("name", ["qhyvit", pytest.param("hyq", marks=pytest.mark.matrix)])
def test_channel_folds_mend_wild_ranges(name: str) -> None:
    """`minmax` breaks on the same function with wild channels; the methods made for it do not notice."""
    source = wild()
    plain, folding = (decibels(source, solve_recipe(source, find_quantizer(one), CHOSEN)) for one in ("minmax", name))
    assert plain < 20
    assert folding > plain + 8


def test_the_same_pictures_give_the_same_recipe() -> None:
    again = solve_recipe(SOURCE, find_quantizer("qhyvit"), CHOSEN)
    assert again.to_json() == solved("qhyvit").to_json()


def test_six_bits_are_worse_than_eight() -> None:
    eight, six = (solve_recipe(SOURCE, find_quantizer("minmax"), CHOSEN, bits=Bits(b, b)) for b in (8, 6))
    assert decibels(SOURCE, six) < decibels(SOURCE, eight) - 6


def test_weights_alone_need_no_pictures() -> None:
    recipe = solve_weights(SOURCE, Bits(4, None))
    assert not recipe.activations and recipe.calibration is None
    assert {code.bits for code in recipe.weights.values()} == {4, 8}
    dynamic = solve_weights(SOURCE, Bits(8, None, dynamic=True))
    assert dynamic.dynamic and "convolution" in next(iter(dynamic.kept.values()))
    assert decibels(SOURCE, dynamic) > 25


def test_sensitivity_names_what_hurts_and_a_budget_buys_it_back() -> None:
    recipe = solve_recipe(SOURCE, find_quantizer("minmax"), CHOSEN, bits=Bits(4, 4))
    found = sensitivities(SOURCE, recipe, CHOSEN)
    assert {one.name for one in found} == set(recipe.weights)
    assert all(one.divergence >= 0 and one.macs > 0 for one in found)
    kept = spend(found, Budget("size", 1.5))
    assert kept
    paid = sum(3 * one.parameters for one in found if one.name in kept)
    assert paid <= 0.5 * sum(one.parameters for one in found)
    mixed = solve_recipe(SOURCE, find_quantizer("minmax"), CHOSEN, bits=Bits(4, 4), kept=kept)
    assert decibels(SOURCE, mixed) > decibels(SOURCE, recipe)
    assert spend(found, Budget("latency", 1.0)) == {}


def test_values_that_are_not_finite_are_an_error() -> None:
    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last((self.first(x) / 0.0).mean((2, 3)))

    program = capture(Breaking().eval(), (32, 32))
    source = source_of_program(program, "breaking", (32, 32), 10)
    with pytest.raises(CheckFailed, match="not finite"):
        solve_recipe(source, find_quantizer("minmax"), CHOSEN)


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="qhyvitt") as caught:
        find_quantizer("qhyvitt")
    assert "qhyvit" in caught.value.cure
    with pytest.raises(UsageError, match="matches no layer"):
        solve_recipe(SOURCE, find_quantizer("minmax"), CHOSEN, keep=["blocks.99"])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"kind": "edgevit-recipe", "kind": "x"}', "not json", '{"kind": "edgevit-recipe", "extra": 1}'],
)
def test_what_is_not_a_recipe_is_refused(text: str) -> None:
    from edgevit.schema.recipe import parse_recipe

    with pytest.raises(BadFile, match="not valid"):
        parse_recipe(text, "recipe.json")


def test_a_recipe_reads_back_exactly() -> None:
    from edgevit.schema.recipe import parse_recipe

    recipe = solved("repq")
    assert parse_recipe(recipe.to_json(), "x") == recipe


def test_another_package_can_add_a_quantizer(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from edgevit.quant import registry

    point = metadata.EntryPoint("mine", "edgevit.quant.quantizers.minmax:QUANTIZER", registry.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    registry.quantizers.cache_clear()
    try:
        assert registry.find_quantizer("mine").name == "minmax"
    finally:
        registry.quantizers.cache_clear()
