"""Post-training quantization for hybrid vision transformers: from calibration pictures to a recipe."""
