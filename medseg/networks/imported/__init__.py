"""Networks that others trained, under their own names of parameters."""
