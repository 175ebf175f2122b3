"""Narrower versions of an architecture: which widths there are, and how to cut a model down to fewer."""
