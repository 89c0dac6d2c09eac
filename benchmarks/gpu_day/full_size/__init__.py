"""XL/2 at its full size, and the contenders that take turns at its denoising step."""
