"""The export pipeline and its cache."""
