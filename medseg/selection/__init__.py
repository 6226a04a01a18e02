"""What is chosen on cross-validated results."""
