"""Lowering and running in a process of its own: typed jobs, the worker, its limits."""
