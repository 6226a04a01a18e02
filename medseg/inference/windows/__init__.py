"""Sliding windows: where they lie, and how they are blended and reduced to labels slab by slab."""

from medseg.renamed import names_that_left

# names that left this module are found where they are now
__getattr__ = names_that_left(__name__)
