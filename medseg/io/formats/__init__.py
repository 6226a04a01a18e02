"""One file per format: what a file says about its voxels, the voxels, and how they are written."""
