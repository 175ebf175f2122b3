"""Trains a split: the teacher's answers, pruned sub-models, the fusion head."""
