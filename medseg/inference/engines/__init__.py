"""What runs the network: torch as it is, torch.compile, OpenVINO. All compute the same function."""

from medseg.renamed import names_that_left

# names that left this module are found where they are now
__getattr__ = names_that_left(__name__)
