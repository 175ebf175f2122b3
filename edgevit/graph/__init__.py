"""From a PyTorch module to the program that a backend lowers: capture, exact rewrites, preprocessing inside."""
