"""One HTML page about a result: its sections, charts and slices."""

from medseg.renamed import names_that_left

__getattr__ = names_that_left(__name__)
