"""Runs a plan: members that compute features, and a coordinator that fuses what arrives before the deadline."""
