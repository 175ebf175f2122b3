"""The kinds of device, one module each."""
