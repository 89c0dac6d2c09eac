"""What is checked on the GPU, one noun a file."""
