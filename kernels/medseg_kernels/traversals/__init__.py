"""Orders in which scans visit a grid: their texts, their tables, their checks. Shared by the families."""
