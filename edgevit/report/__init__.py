"""Self-contained pages and texts about what was measured."""
