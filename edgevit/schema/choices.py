"""The words that several documents and options choose from; nothing here imports anything."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "int8", "int8-dynamic", "w8", "w4"]
QUANTIZED = ("int8", "int8-dynamic", "w8", "w4")
"""Precisions of a quantized model: what each stands for is in docs/quantization.md."""
InputKind = Literal["image", "tensor"]
OutputKind = Literal["probabilities", "logits", "features"]
CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos"]
