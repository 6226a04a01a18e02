"""A stranger's bundle: its archive, its expressions, its targets, and whether it is trusted."""
