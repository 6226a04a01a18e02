"""The short depthwise convolution of Mamba mixers, along a traversal or on the grid: see README.md."""
