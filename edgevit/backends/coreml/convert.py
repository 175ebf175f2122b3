"""Changes to coremltools' conversion, and what edgevit records from it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from edgevit.errors import UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_FUSE = "common::fuse_elementwise_to_batchnorm"
_GUARD = " (guarded)"
_RESCALE = "common::distributive_quantized_binary_op_scale_normalization"
_FUSE_EXACTLY = "edgevit::fuse_elementwise_to_batchnorm"


def register_operators() -> None:
    """Lower what coremltools 9.0 does not take from a `torch.export` program.

    ``alias`` is left by decompositions in windowed attention; it is an identity. ``lstm.input`` is what
    coremltools lowers as ``lstm`` from TorchScript, where three results have three names.
    """
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    def alias(context: Any, node: Any) -> None:
        context.add(ops._get_inputs(context, node, expected=1)[0], node.name)

    def lstm_input(context: Any, node: Any) -> None:
        several = copy.copy(node)
        several.outputs = [f"{node.name}_{part}" for part in ("sequence", "hidden", "cell")]
        ops.lstm(context, several)
        context.add(tuple(context[name] for name in several.outputs), node.name)

    register_torch_op(override=True)(alias)
    register_torch_op(torch_alias=["lstm.input"], override=True)(lstm_input)


def exact_pipeline(*, quantized: bool = False) -> Any:
    """coremltools' passes, with the fusion of a multiplication and an addition made exact.

    Of a quantized program the scales stay as they are: one pass would change those of sums.

    coremltools 9.0 fuses ``x * a + b`` into a batch normalisation of variance 1 and leaves its
    epsilon at 1e-5: every such value, the normalised image among them, comes out 5e-6 too small.
    """
    import coremltools as ct

    _register_exact_fusion()
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.passes = [_FUSE_EXACTLY if name == _FUSE else name for name in pipeline.passes]
    if quantized:
        pipeline.remove_passes({_RESCALE})
    return pipeline


def _register_exact_fusion() -> None:
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass

    if _FUSE_EXACTLY in PASS_REGISTRY.passes:
        return

    def normalisations(program: Any) -> Iterator[Any]:
        for function in program.functions.values():
            yield from (op for op in function.operations if op.op_type == "batch_norm")

    def without_epsilon(op: Any) -> None:
        block = op.enclosing_block
        with block:
            exact = mb.batch_norm(
                x=op.x,
                mean=op.mean,
                variance=op.variance,
                gamma=op.gamma,
                beta=op.beta,
                epsilon=0.0,
                name=op.outputs[0].name,
                before_op=op,
            )
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=exact)
        block.remove_ops([op])

    class ExactFusion(AbstractGraphPass):  # type: ignore[misc]
        def apply(self, prog: Any) -> None:
            captured = {id(op) for op in normalisations(prog)}
            PASS_REGISTRY[_FUSE].apply(prog)
            for op in list(normalisations(prog)):
                if id(op) not in captured:
                    without_epsilon(op)

    ExactFusion.__name__ = _FUSE_EXACTLY.partition("::")[2]
    register_pass(namespace=_FUSE_EXACTLY.partition("::")[0])(ExactFusion)


def tag_modules(program: ExportedProgram) -> ExportedProgram:
    """Store each node's module path and guard mark where coremltools preserves stack traces."""
    from edgevit.graph.fx import GUARDED

    for node in program.graph.nodes:
        known = node.meta.get("custom") or {}
        node.meta["stack_trace"] = known.get("module", "") + (_GUARD if known.get(GUARDED) else "")
    return program


def _tags(op: Any) -> list[str]:
    from coremltools.converters.mil.mil.scope import ScopeSource

    return [tag for tag in op.scopes.get(ScopeSource.EXIR_STACK_TRACE, []) if tag]


def _modules_of(op: Any) -> list[str]:
    return [path for tag in _tags(op) if (path := tag.removesuffix(_GUARD))]


def module_map(program: Any) -> str:
    """The PyTorch module of each converted operation: JSON, module path to names of results."""
    found: dict[str, list[str]] = {}
    for function in program.functions.values():
        for op in function.operations:
            paths = _modules_of(op)
            if paths and op.op_type != "const":
                found.setdefault(paths[-1], []).extend(output.name for output in op.outputs)
    return json.dumps(found, separators=(",", ":"))


class KeepFp32:
    """Chooses the operations that stay in fp32, and remembers which patterns chose any.

    What the model itself guards from half precision stays in fp32 unasked.
    """

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._unused = dict.fromkeys(patterns)
        self._patterns = patterns

    def keeps(self, op: Any) -> bool:
        """Whether a pattern matches an operation by its type, its name or its module."""
        names = [op.op_type, *(output.name for output in op.outputs), *_modules_of(op)]
        kept = [one for one in self._patterns if any(_matches(name, one) for name in names)]
        for one in kept:
            self._unused.pop(one, None)
        return bool(kept) or any(tag.endswith(_GUARD) for tag in _tags(op))

    def selector(self) -> Callable[[Any], bool]:
        """The callback for coremltools: whether an operation is converted to fp16."""
        return lambda op: not self.keeps(op)

    def check(self) -> None:
        """Refuse patterns that matched nothing.

        Raises:
            UsageError: a pattern matched nothing.
        """
        if self._unused:
            raise UsageError(f"--keep-fp32 {next(iter(self._unused))} matches no operation, name or module")


def _matches(name: str, pattern: str) -> bool:
    """Whether a glob matches; a module's pattern includes all modules inside it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
