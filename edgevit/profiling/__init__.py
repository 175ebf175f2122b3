"""Measuring a model on a device by a stated protocol, the noise contract, and saying when not to believe it."""
