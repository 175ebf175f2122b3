"""All operators that the evaluator knows; importing this package registers them.

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
