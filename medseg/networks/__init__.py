"""Hybrid segmentation networks from one set of blocks."""
