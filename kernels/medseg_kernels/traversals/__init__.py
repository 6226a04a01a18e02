"""Orders in which scans visit a grid: their texts, their tables, their checks. Shared by the families."""

from .curves import traversal_moves, traversal_order, traversal_pieces
from .orders import TRAVERSALS, ClosedForm, Traversal

__all__ = ["TRAVERSALS", "ClosedForm", "Traversal", "traversal_moves", "traversal_order", "traversal_pieces"]
