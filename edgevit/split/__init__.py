"""ED-ViT: splits one vision transformer by classes over several small devices."""
