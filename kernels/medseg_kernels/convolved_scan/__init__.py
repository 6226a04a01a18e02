"""Short convolution, projections and selective scan as one operator: what a Mamba block runs."""
