"""One HTML page about a result: its sections, charts and slices."""
