"""Whether one can trust a case, and whether one model is better than another: statistics, without training anything."""

from .comparison import Comparison, Pairing, Rules, compare
from .power import detectable_difference, power

__all__ = ["Comparison", "Pairing", "Rules", "compare", "detectable_difference", "power"]
