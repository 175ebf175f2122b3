"""The ExecuTorch backend: lowers programs to ``.pte`` files, with XNNPACK or the Core ML delegate, and runs them."""
