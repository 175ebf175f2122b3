"""Writes bundles atomically, and reads them without trusting them."""
