"""TensorRT for RTX by its own Python module, until the package has a backend for it; then this folder goes."""
