"""The Core ML backend: lowers programs to ``.mlpackage`` packages and runs them."""
