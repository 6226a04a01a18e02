"""What `medseg bundle verify` looks at."""
