"""Lowering and running in a separate process: typed jobs, the worker, its limits."""
