"""Post-training quantization for hybrid vision transformers: from pictures to a recipe."""
