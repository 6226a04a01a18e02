"""Networks that others trained: their own code under their names of parameters, or a table from their names to ours."""
