"""ExecuTorch programs (.pte), with XNNPACK or the Core ML delegate."""
