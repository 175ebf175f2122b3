"""Renders measurements as self-contained HTML pages and texts."""
