"""ED-ViT: one vision transformer split by classes over several small devices."""
