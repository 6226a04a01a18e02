"""Preprocessing, augmentation, sampling and postprocessing of volumes."""
