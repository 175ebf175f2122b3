"""What a lowered program takes and gives, as the process that lowers it is told."""

from __future__ import annotations

from typing import Literal

from edgevit.schema.strict import Strict

InputLayout = Literal["image_nhwc_uint8", "image_nchw_float", "tensor"]


class Interface(Strict):
    """What the lowered program takes and gives.

    Attributes:
        layout: ``image_nhwc_uint8``: [1, H, W, 3] RGB bytes; ``image_nchw_float``: [1, 3, H, W]
            RGB in 0..255 (Core ML's image input); ``tensor``: [1, 3, H, W], already normalised.
        size: (H, W) in pixels.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
        probabilities: softmax inside; otherwise logits.
        half: compute in fp16 between a float32 input and a float32 output.
        keep_fp32: of a half-precision program, the operations that stay in fp32: operator types, names of operations
            or module paths, with wildcards.
    """

    layout: InputLayout
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    probabilities: bool
    half: bool = False
    keep_fp32: tuple[str, ...] = ()
