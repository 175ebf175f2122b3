"""Bridge blocks: where a convolutional image becomes tokens (Q-HyViT)."""
