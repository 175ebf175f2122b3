"""Executes Core ML's ML Programs from the saved package, operator by operator, without Core ML.

What is read is what lies on disk: the specification and the weight file of an ``.mlpackage``, never
the converter's program in memory. torch does the arithmetic in float32 and every result is rounded
to the type that the program declares for it, so that a half-precision program rounds after every
operation.

What this shows: that the emitted program, its weights, its shapes and the places where it rounds are
right. What it cannot show: Apple's kernels. The Neural Engine may accumulate in half precision and
may fuse operations; agreement here is evidence, not proof.

This package imports only `edgevit.core` and `edgevit.errors`, so that the Core ML backend can use it.
"""

TITLE = "edgevit's ML Program evaluator"
