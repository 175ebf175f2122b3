"""Tools for those who work on edgevit; nothing here is installed."""
