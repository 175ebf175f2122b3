"""Making a model smaller before it is exported."""
