"""Causal Wan: video models that cache the keys and values of all tokens of a latent frame (Wan 2.1, Self-Forcing)."""
