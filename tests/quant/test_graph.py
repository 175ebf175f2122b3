"""Folds compute the same function; bridges are where the paper counts them; Q/DQ nodes say what the recipe says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.export import ExportedProgram

from edgevit.data.digits import digits_arrays
from edgevit.data.images import normalise
from edgevit.errors import BadFile
from edgevit.graph.capture import capture
from edgevit.graph.fx import calls, first_output
from edgevit.graph.qdq.base_graph import digest, quantizable
from edgevit.graph.qdq.channel_folds import apply_fold, apply_folds, sites_of
from edgevit.graph.qdq.insert import DEQUANTIZE_CHANNELS, QUANTIZE, insert
from edgevit.graph.qdq.layers import layers_of, plan
from edgevit.graph.qdq.propagate import carry, drop_clipped_relus
from edgevit.models.bundled import BUILDERS
from edgevit.models.load import load_model
from edgevit.quant.bridges.find import bridges_of
from edgevit.quant.calibration import read_pictures
from edgevit.quant.options import Bits
from edgevit.quant.registry import find_quantizer
from edgevit.quant.solve import CanonicalModel, solve_recipe, source_of_program
from edgevit.schema.recipe import ChannelFold, Recipe, RecipeModel, UniformCode


@cache
def program_of(name: str) -> ExportedProgram:
    loaded = load_model(name, weights="pretrained" if name in BUILDERS else "random")
    return capture(loaded.module, loaded.preprocessing.size)


@cache
def pictures() -> list[torch.Tensor]:
    rule = load_model("deit_digits").preprocessing
    return [torch.from_numpy(normalise(one[None], rule)) for one in digits_arrays("test")[0][:6]]


def logits(core: torch.fx.GraphModule) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([first_output(core(one)) for one in pictures()])


@cache
def solved(name: str, quantizer: str = "repq") -> tuple[CanonicalModel, Recipe]:
    loaded = load_model(name)
    source = source_of_program(program_of(name), name, loaded.preprocessing.size, 10)
    chosen = read_pictures("digits:train", loaded.preprocessing, wanted=8)
    return source, solve_recipe(source, find_quantizer(quantizer), chosen, bits=Bits(), exportable=True)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_folds_compute_the_same_function(name: str) -> None:
    """Every site at once, with factors from 1 to 64 and shifts where they are possible (RepQ: equal to 1e-5)."""
    core, changed = quantizable(program_of(name)), quantizable(program_of(name))
    random = torch.Generator().manual_seed(3)
    sites = sites_of(changed)
    assert sites
    for site in sites:
        factor = 2.0 ** (torch.rand(site.channels, generator=random) * 6)
        shift = torch.rand(site.channels, generator=random) - 0.5 if site.shifts else None
        apply_fold(changed, site, factor, shift)
    changed.recompile()
    plain = logits(core)
    assert float((logits(changed) - plain).abs().max()) <= 1e-5 * max(1.0, float(plain.abs().max()) * 4)


def test_a_fold_elsewhere_is_refused() -> None:
    core = quantizable(program_of("deit_digits"))
    with pytest.raises(BadFile, match="does not allow"):
        apply_folds(core, [ChannelFold(value="gelu_default", factor=(1.0, 2.0))])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mobilevit_s", 3),
        pytest.param("mobilevitv2_100", 3, marks=pytest.mark.matrix),
        ("efficientformer_l1", 1),
        ("efficientformerv2_s0", 2),
    ],
)
def test_bridges_are_as_many_as_the_paper_counts(name: str, count: int) -> None:
    """Q-HyViT, Table I."""
    assert len(bridges_of(quantizable(program_of(name)))) == count


def test_bridges_are_where_the_paper_has_them() -> None:
    from edgevit.graph.fx import module_path

    found = bridges_of(quantizable(program_of("mobilevit_s")))
    assert [module_path(one.makers[0]) for one in found] == [f"stages.{stage}.1.conv_1x1" for stage in (2, 3, 4)]
    assert {module_path(one.readers[0]) for one in found} == {
        f"stages.{stage}.1.transformer.0.attn.qkv" for stage in (2, 3, 4)
    }


def test_the_graph_of_a_model_has_one_digest() -> None:
    again = load_model("shvit_digits")
    assert digest(quantizable(program_of("shvit_digits"))) == digest(
        quantizable(capture(again.module, again.preprocessing.size))
    )


def test_a_recipe_for_another_model_is_refused() -> None:
    _, recipe = solved("deit_digits")
    with pytest.raises(BadFile, match="another"):
        insert(quantizable(program_of("tinyvit_digits")), recipe)


@pytest.mark.parametrize("name", ["shvit_digits", "tinyvit_digits"])
def test_carrying_integers_changes_no_value(name: str) -> None:
    source, recipe = solved(name)
    plain, carried, exact = (insert(source.make(), recipe) for _ in range(3))
    assert drop_clipped_relus(carried) >= 0
    assert carry(carried) > 0
    assert carry(exact, requantizes=False) > 0
    wanted = logits(plain)
    assert torch.equal(logits(carried), wanted)
    assert torch.equal(logits(exact), wanted)


def test_every_layer_and_value_is_quantized_with_the_recipes_numbers() -> None:
    source, recipe = solved("mobilevitv2_digits")
    core = insert(source.make(), recipe)
    assert len(list(calls(core, DEQUANTIZE_CHANNELS))) == len(recipe.weights)
    found = {(node.args[1], node.args[2]) for node in calls(core, QUANTIZE)}
    assert found == {(one.scale, one.zero_point) for one in recipe.activations.values() if isinstance(one, UniformCode)}


def test_biases_lie_on_the_grid_of_their_integers() -> None:
    from edgevit.graph.fx import argument, constant

    source, recipe = solved("shvit_digits")
    core = insert(source.make(), recipe)
    for layer in plan(quantizable(program_of("shvit_digits"))).layers[:6]:
        node = next(one for one in core.graph.nodes if one.name == layer.name)
        bias, code = constant(core, argument(node, "bias")), recipe.activations[layer.source.name]
        assert bias is not None and isinstance(code, UniformCode)
        steps = bias.double() / (torch.tensor(code.scale) * torch.tensor(recipe.weights[layer.name].scale)).double()
        assert float((steps - steps.round()).abs().max()) < 1e-2


def test_a_saved_program_loads_back_exactly(tmp_path: object) -> None:
    source, recipe = solved("deit_digits")
    core = insert(source.make(), Recipe.model_validate_json(recipe.to_json()))
    path = f"{tmp_path}/quantized.pt2"
    torch.export.save(torch.export.export(core, (pictures()[0],)), path)
    again = torch.export.load(path).module(check_guards=False)
    with torch.no_grad():
        assert torch.equal(first_output(again(pictures()[0])), first_output(core(pictures()[0])))


def test_kept_layers_stay_in_floating_point() -> None:
    source, _ = solved("deit_digits")
    chosen = read_pictures("digits:train", load_model("deit_digits").preprocessing, wanted=8)
    recipe = solve_recipe(source, find_quantizer("minmax"), chosen, keep=["blocks.0.mlp", "head"])
    kept = {recipe.modules[name] for name in recipe.kept}
    assert kept == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "head"}
    assert len(recipe.weights) == len(layers_of(source.make())) - 3
    assert recipe.model == RecipeModel(name="deit_digits", size=(32, 32), classes=10, graph=source.model.graph)
