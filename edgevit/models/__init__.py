"""Models that can be exported: the zoo, checkpoints, and the small trained models."""
