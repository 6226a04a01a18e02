"""Write, check, load and export models as MONAI bundles."""
