"""Every operator that the evaluator knows, registered when this package is imported.

Left out, with a clear error that names them: control flow, lists, GRU and plain recurrent layers, random
numbers, states, and the box operators of detectors. No image classifier of the zoo needs them.
"""

from edgevit.mil.operators import (
    compressed,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    quantized,
    recurrent,
    reduction,
    resizing,
    shaping,
    tensors,
)

__all__ = [
    "compressed",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "quantized",
    "recurrent",
    "reduction",
    "resizing",
    "shaping",
    "tensors",
]
