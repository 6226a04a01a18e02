"""Operators for 3D volumes with a GPU (triton), a compiled CPU and a readable reference form each. Public names only."""
