"""One recipe in four files: the scales, the answers, the kernels."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgevit.backends.base import find_backend
from edgevit.bundle.read import Bundle, read_bundle
from edgevit.data.digits import digits_arrays
from edgevit.graph.capture import capture
from edgevit.graph.qdq.base_graph import quantizable
from edgevit.graph.qdq.layers import plan
from edgevit.models.load import load_model
from edgevit.quant.simulate import simulated
from edgevit.schema.recipe import RECIPE, Recipe, UniformCode, read_recipe
from edgevit.verify.probes import make_inputs, reference_outputs
from tests.conftest import FORMATS, Exported, crossed
from tests.quant.readback import READERS

PICTURES = 60
MODELS = ("tinyvit_digits", "shvit_digits")
COVERED = [(MODELS[0], target) for target in FORMATS]


def opened(exported: Exported, model: str, target: str) -> tuple[Bundle, Recipe]:
    bundle = read_bundle(exported(model, target, "int8"))
    return bundle, read_recipe(bundle.path / RECIPE)


@pytest.mark.parametrize(("model", "target"), crossed(MODELS, FORMATS, COVERED))
def test_every_scale_is_in_the_file(exported: Exported, model: str, target: str) -> None:
    """Tensor by tensor: every code of the recipe, and no code that is not the recipe's."""
    bundle, recipe = opened(exported, model, target)
    values, weights = READERS[target](bundle.entry)
    wanted = {(code.scale, code.zero_point) for code in recipe.activations.values() if isinstance(code, UniformCode)}
    assert wanted - values == set()
    assert values - wanted == set()
    found = [tuple(float(one) for one in scales) for scales in weights]
    tables = {one.scale for one in recipe.tables.values()}
    for name, code in recipe.weights.items():
        assert code.scale in found, f"{recipe.modules[name]}: not in the file"
    assert {one for one in found if len(one) > 1} - {code.scale for code in recipe.weights.values()} - tables == set()


@cache
def answers_of(model: str, recipe: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the quantized and of the float model, in PyTorch."""
    from PIL import Image

    loaded = load_model(model)
    pictures = [Image.fromarray(one) for one in digits_arrays("test")[0][:PICTURES]]
    changed = simulated(loaded, Recipe.model_validate(json.loads(recipe)))
    return tuple(
        reference_outputs(one.module, pictures, loaded.preprocessing, probabilities=True) for one in (changed, loaded)
    )


def logit_step(model: str, recipe: Recipe) -> float:
    loaded = load_model(model)
    core = quantizable(capture(loaded.module, loaded.preprocessing.size))
    code = recipe.activations[plan(core).layers[-1].result.name]
    assert isinstance(code, UniformCode)
    return code.scale


@pytest.mark.parametrize(("model", "target"), crossed(MODELS, FORMATS, COVERED))
def test_files_agree_with_the_quantized_model(exported: Exported, model: str, target: str) -> None:
    """In steps of the logits' code.

    Values that fall between two integers are rounded to the other one by another order of summation, at a rate of some
    millionths a layer, and the layers behind spread that; Core ML's floats are halves. So not every answer is equal.
    """
    from PIL import Image

    bundle, recipe = opened(exported, model, target)
    wanted, exact = answers_of(model, recipe.to_json())
    rule = load_model(model).preprocessing
    pictures = [Image.fromarray(one) for one in digits_arrays("test")[0][:PICTURES]]
    inputs = make_inputs(pictures, rule, bundle.manifest.input)
    run = find_backend(target).load(bundle.entry)
    found = np.concatenate([run(inputs[index : index + 1]) for index in range(len(inputs))])
    step = logit_step(model, recipe)
    steps = np.abs(centred(found) - centred(wanted)) / step
    assert (steps <= 1.01).mean() >= (0.5 if target == "coreml" else 0.9)
    assert steps.max() <= (15 if target == "coreml" else 4)
    noise = np.sqrt(np.square(centred(wanted) - centred(exact)).mean())
    assert np.sqrt(np.square(centred(found) - centred(exact)).mean()) <= 1.25 * noise + 0.1 * step


def centred(probabilities: np.ndarray) -> np.ndarray:
    """Logits but for a constant, the same one where most logits are the same."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    return logs - np.median(logs, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("model", "target"), crossed(MODELS, FORMATS[:3], [one for one in COVERED if one[1] != "coreml"])
)
def test_layers_run_on_integer_kernels(exported: Exported, model: str, target: str) -> None:
    bundle, _ = opened(exported, model, target)
    placement = find_backend(target).placement(bundle.entry)
    assert placement is not None
    layers = [one for one in placement.operators if one.macs and one.operator.lower() not in ("matmul", "batch_matmul")]
    whole = sum(one.integer_macs for one in layers) / sum(one.macs for one in layers)
    assert whole > 0.99
    assert bundle.manifest.lowering is not None
    assert bundle.manifest.lowering.integer_share == pytest.approx(placement.integer_share)


def test_onnx_runtime_fuses_what_inspect_counts(exported: Exported, tmp_path: Path) -> None:
    """The session's own optimised graph has one integer kernel for every layer."""
    import onnx
    import onnxruntime

    bundle, recipe = opened(exported, "tinyvit_digits", "onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(bundle.entry), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") + kinds.count("QGemm") == len(recipe.weights)


@pytest.mark.parametrize("model", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.matrix)])
def test_every_layer_is_within_a_step_by_itself(exported: Exported, model: str, tmp_path: Path) -> None:
    """Each layer's integer kernel against the same Q/DQ nodes computed on floats, on the integers that it really gets."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from onnx.utils import Extractor

    levels = onnxruntime.GraphOptimizationLevel

    def session(file: onnx.ModelProto, *, integers: bool) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1")  # as edgevit's own, see its loader
        if not integers:
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])

    bundle, recipe = opened(exported, model, "onnx")
    file = onnx.load(bundle.entry)
    makers = {name: node for node in file.graph.node for name in node.output}
    readers = {name: node for node in file.graph.node for name in node.input}
    layers = [node for node in file.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(recipe.weights)
    ends = [(makers[one.input[0]].input[0], readers[one.output[0]].output[0]) for one in layers]
    watched = onnx.ModelProto()
    watched.CopyFrom(file)
    for name in dict.fromkeys(source for source, _ in ends):
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    whole = session(watched, integers=True)
    picture = digits_arrays("test")[0][:1]
    seen = dict(zip([one.name for one in whole.get_outputs()], whole.run(None, {"image": picture}), strict=True))
    extractor, off = Extractor(file), []
    for source, result in ends:
        alone = extractor.extract_model([source], [result])
        answers = [
            session(alone, integers=kind).run(None, {source: seen[source]})[0].astype(int) for kind in (True, False)
        ]
        off.append(np.abs(answers[0] - answers[1]).ravel())
    found = np.concatenate(off)
    assert found.max() <= 1
    assert (found == 0).mean() >= 0.999


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        ("int8-dynamic", "onnx"),
        pytest.param("int8-dynamic", "litert", marks=pytest.mark.matrix),
        pytest.param("int8-dynamic", "executorch", marks=pytest.mark.matrix),
        pytest.param("w8", "onnx", marks=pytest.mark.matrix),
        ("w8", "litert"),
        pytest.param("w8", "coreml", marks=pytest.mark.matrix),
        ("w4", "onnx"),
        pytest.param("w4", "litert", marks=pytest.mark.matrix),
        ("w4", "coreml-ios18"),
    ],
)
def test_other_precisions_pass_their_verdict_and_are_smaller(exported: Exported, precision: str, target: str) -> None:
    bundle = read_bundle(exported("deit_digits", target, precision))
    plain = read_bundle(exported("deit_digits", target.partition("-")[0]))
    sizes = [
        sum(file.bytes for file in one.manifest.files or () if file.path.startswith(one.manifest.entry))
        for one in (bundle, plain)
    ]
    assert bundle.manifest.verdict is not None and bundle.manifest.verdict.status == "passed"
    assert sizes[0] < 0.62 * sizes[1]
    if precision == "int8-dynamic":
        placement = find_backend(bundle.manifest.target.backend).placement(bundle.entry)
        assert placement is not None and (placement.integer_share or 0) > 0.5


def test_a_damaged_scale_fails_the_verdict(exported: Exported, tmp_path: Path) -> None:
    """The judge is judged: one weight's scale ten times too large in a file that was good."""
    import onnx
    from onnx import numpy_helper

    from edgevit.verify.judge import judge

    bundle, _ = opened(exported, "tinyvit_digits", "onnx")
    from edgevit.bundle.golden import read_golden

    inputs = read_golden(bundle.path).inputs
    wanted = read_golden(bundle.path).outputs
    exact = read_golden(bundle.path).exact

    def verdict(file: Path) -> str:
        run = find_backend("onnx").load(file)
        outputs = np.concatenate([run(inputs[index : index + 1]) for index in range(len(inputs))])
        return judge(bundle.manifest, wanted, outputs, exact).status

    assert verdict(bundle.entry) == "passed"
    model = onnx.load(bundle.entry)
    first = next(
        node for node in model.graph.node if node.op_type == "DequantizeLinear" and "channel" in node.output[0]
    )
    stored = next(one for one in model.graph.initializer if one.name == first.input[1])
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float32(10), stored.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    assert verdict(tmp_path / "damaged.onnx") == "failed"
    permuted = judge(bundle.manifest, wanted, np.roll(wanted, 1, axis=1), exact)
    assert permuted.status == "failed"


def test_torch_is_not_needed_to_read_a_recipe() -> None:
    import subprocess
    import sys

    code = "import edgevit.schema.recipe, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
