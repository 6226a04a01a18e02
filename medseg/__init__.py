"""3D CT and MR segmentation: plan, fit, predict, evaluate; every model is a MONAI bundle."""

__version__ = "0.1.0"
