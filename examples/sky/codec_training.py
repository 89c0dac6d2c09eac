"""Training of the picture autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoencoder import Decoder, Encoder
from checkpoint import load_checkpoint, save_checkpoint
from sky import Sky
from torch import Tensor, nn

__all__ = ["CodecTraining", "load_codec", "pictures_to_tensor"]

TRAINING_SKIES = 1_000_000
"""Skies from this seed on are for training; those below are for evaluation."""

_BATCH = 64
_SKIES = 600
_FRAMES_EACH = 10
_PEAK_RATE = 3e-3
# Noise on the latents in training: the decoder must tolerate the errors of a diffusion model.
_LATENT_NOISE = 0.05


@dataclass
class CodecTraining:
    """Training of the autoencoder, which continues from its checkpoint.

    Attributes:
        path: The checkpoint.
        steps: Total number of training steps.
        seed: Seed of weights, batches and noise.
        device: "cpu" or "cuda".
    """

    path: Path
    steps: int
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.encoder, self.decoder = Encoder().to(self.device), Decoder().to(self.device)
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=_PEAK_RATE, betas=(0.9, 0.95), weight_decay=1e-4)
        self.losses: list[float] = []
        state = load_checkpoint(self.path)
        if state is not None:
            self._restore(state)

    def run(self) -> Iterator[float]:
        """Train to the end and yield the loss of each step."""
        frames = render_frames(self.seed)
        while len(self.losses) < self.steps:
            yield self.advance(frames)

    def advance(self, frames: Tensor) -> float:
        """Take one step on a batch of ``frames``, uint8 [n, 3, 64, 64]."""
        step = len(self.losses)
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        pictures = _normalize(frames[torch.randint(len(frames), (_BATCH,), generator=random)]).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = _PEAK_RATE * _one_cycle((step + 1) / self.steps)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            latent = self.encoder(pictures)
            noise = torch.randn(latent.shape, generator=random).to(self.device)
            decoded = self.decoder(latent + _LATENT_NOISE * noise)
        loss = nn.functional.mse_loss(decoded.float(), pictures)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())
        return self.losses[-1]

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(
            self.path,
            {
                "encoder": self.encoder.state_dict(),
                "decoder": self.decoder.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "losses": self.losses,
                "seed": self.seed,
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = state["losses"]
        self.seed = state["seed"]


def load_codec(path: Path) -> tuple[Encoder, Decoder]:
    """Return the trained encoder, with its scale folded in, and the decoder, both in evaluation mode."""
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"no codec at '{path}'; train it first: train.py codec")
    encoder, decoder = Encoder(), Decoder()
    encoder.load_state_dict(state["encoder"])
    decoder.load_state_dict(state["decoder"])
    encoder.fold_norm().eval().requires_grad_(False)
    decoder.eval().requires_grad_(False)
    return encoder, decoder


def render_frames(seed: int) -> Tensor:
    """Render single frames of many skies, uint8 [n, 3, 64, 64]."""
    random = np.random.default_rng(seed)
    skies = (Sky(TRAINING_SKIES + number) for number in range(_SKIES))
    frames = [sky.frames(int(when), 1) for sky in skies for when in random.integers(0, 10_000, _FRAMES_EACH)]
    return torch.from_numpy(np.concatenate(frames)).permute(0, 3, 1, 2).contiguous()


def pictures_to_tensor(pictures: Any) -> Tensor:
    """Convert pictures, uint8 [n, 64, 64, 3], to the encoder's input, float32 [n, 3, 64, 64] in -1..1."""
    return _normalize(torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2))


def _normalize(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1.0


def _one_cycle(share: float) -> float:
    """Rise over the first tenth, then fall along a cosine."""
    if share < 0.1:
        return share / 0.1
    return 0.5 * (1.0 + float(np.cos(np.pi * (share - 0.1) / 0.9))) + 1e-4
