"""Backends, one package for each file format: lower, load, list operators, read the embedded manifest."""
