"""From a dataset to a plan that says why."""
