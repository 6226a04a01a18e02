"""One file, one token mixer: (B, X, Y, Z, C) -> (B, X, Y, Z, C)."""
