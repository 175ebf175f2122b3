"""Deciding a split before anything is trained: classes, members, widths, sizes."""
