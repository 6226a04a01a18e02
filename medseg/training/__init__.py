"""Lightning modules and loops that train a bundle."""
