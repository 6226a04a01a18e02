"""The selective scan of Mamba over 3D grids: see README.md."""
