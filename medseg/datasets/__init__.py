"""Folders of labelled volumes in the layouts people have."""
