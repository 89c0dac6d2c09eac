"""The checks that need a GPU, one noun a file; ``gpu_check.py`` composes them.

Everything that TensorRT's own interpreter runs needs Python 3.10 and numpy 1.23 alone.
"""
