"""Measurements against the plain alternative, interleaved in one run."""
