"""Whole volumes: sliding window, ensembles, labels on the source grid."""
