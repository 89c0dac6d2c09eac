"""The stages of a model: what each graph of a bundle computes."""

from __future__ import annotations

from enum import Enum

__all__ = ["Stage"]


class Stage(str, Enum):
    """What a graph computes.

    Attributes:
        FILL: K and V of a finished chunk, once per autoregressive step.
        DENOISE: One denoising step of every request.
        PROMPT: What depends on the prompt alone, once per prompt.
        VAE_ENCODE: Pictures to latents.
        VAE_DECODE: Latents to pictures.
        TEXT_ENCODE: Tokens to text embeddings.
    """

    FILL = "fill"
    DENOISE = "denoise"
    PROMPT = "prompt"
    VAE_ENCODE = "vae_encode"
    VAE_DECODE = "vae_decode"
    TEXT_ENCODE = "text_encode"

    __str__ = str.__str__
