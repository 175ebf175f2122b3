"""Builds runtimes for other machines: wheels, npm packages, an Android userland."""
