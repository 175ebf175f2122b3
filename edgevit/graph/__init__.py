"""From a module to a program: capture, exact rewrites, preprocessing inside."""
