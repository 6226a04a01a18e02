"""Files in and out, geometry kept exactly."""
