"""Overlap, surface distance, statistics and reports."""
