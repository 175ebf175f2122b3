"""Emulated devices, fleets and networks."""
