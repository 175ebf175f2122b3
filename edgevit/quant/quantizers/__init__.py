"""Quantizers, one file each, found by entry point: each composes the parts of `edgevit.quant`."""
