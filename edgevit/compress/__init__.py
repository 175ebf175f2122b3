"""Makes a model smaller before it is exported."""
