"""Devices that run models: how to reach them, copy files there, and start edgevit's runner."""
