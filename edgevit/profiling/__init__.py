"""Measures a model on a device by a stated protocol, the noise contract, and marks figures that cannot be trusted."""
