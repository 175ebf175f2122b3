"""One file a format: lower, load, list operators, read the embedded manifest."""
