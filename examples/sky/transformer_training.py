"""Training of the transformer on latents of skies that are rendered on the fly."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoencoder import LATENT_SHAPE
from checkpoint import load_checkpoint, save_checkpoint
from codec_training import TRAINING_SKIES, load_codec, pictures_to_tensor
from diffusion import TRAIN_STEPS, Diffusion
from packing import Packing, run_packed
from sky import Sky
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vdmrt.export.families.ca2vdm.config import TransformerConfig
from vdmrt.export.families.ca2vdm.transformer import CausalTransformer

# Spatial attention on the CPU is faster with products in bfloat16.
torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)

__all__ = ["CONFIG", "TransformerTraining", "load_average"]

CONFIG = TransformerConfig(
    latent_size=LATENT_SHAPE[1:],
    latent_channels=LATENT_SHAPE[0],
    hidden_size=192,
    depth=6,
    heads=6,
    mask_channel=True,
    context="previous",
    context_frames=3,
)
# First short clips of many skies, which teach the wind at the lowest cost, then the prefixes of a long generation.
_SHORT = Packing(9, (1, 9, 9))
_GROWING = Packing(25, (1, 9, 17, 25))
_FULL = Packing(25, (25, 25, 25, 25))
_SHORT_SHARE = 0.6
_PREFIX_NOISE_BELOW = 50
_LOOK_AHEAD = (4, 8)
_LOOK_AHEAD_WEIGHT = 0.5
_MUON_RATE, _ADAM_RATE = 3e-3, 2e-3
_WARM_UP = 60
# The learning rate decays over this last share of the steps.
_DECAY_SHARE = 0.35
_AVERAGE = 0.996


@dataclass
class TransformerTraining:
    """Training of the transformer, which continues from its checkpoint.

    Attributes:
        path: The checkpoint.
        codec: The autoencoder's checkpoint.
        steps: Total number of training steps; may change at a restart.
        batch: Short clips in a step; half as many long ones.
        seed: Seed of weights, clips and noise.
        device: "cpu" or "cuda".
        config: The architecture.
    """

    path: Path
    codec: Path
    steps: int
    batch: int = 4
    seed: int = 0
    device: str = "cpu"
    config: TransformerConfig = CONFIG

    def __post_init__(self) -> None:
        self.encoder = load_codec(self.codec)[0].to(self.device)
        self.diffusion = Diffusion(self.device)
        torch.manual_seed(self.seed)
        self.model = _initialize(CausalTransformer(self.config)).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        # Predicts the motion of the clouds from clean frames: it teaches the prefix the wind, and is dropped later.
        width = self.config.patch_size**2 * self.config.latent_channels * len(_LOOK_AHEAD)
        self.look_ahead = nn.Sequential(
            nn.LayerNorm(self.config.hidden_size), nn.Linear(self.config.hidden_size, width)
        )
        self.look_ahead.to(self.device)
        self.optimizers = _make_optimizers([self.model, self.look_ahead])
        self.losses: list[list[float]] = []
        state = load_checkpoint(self.path)
        if state is not None:
            self._restore(state)

    def run(self) -> Iterator[list[float]]:
        """Train to the end and yield the losses of each step: v, bound, look ahead."""
        while len(self.losses) < self.steps:
            yield self.advance(self.make_batch(len(self.losses)))

    def choose_packing(self, step: int) -> Packing:
        """Return the layout of a step: short at first, then growing and full windows alternately."""
        if step < _SHORT_SHARE * self.steps:
            return _SHORT
        return (_GROWING, _FULL)[step % 2]

    def make_batch(self, step: int) -> Tensor:
        """Render and encode the clips of one step, [B, F, 4, 16, 16]; the same for the same seed and step."""
        packing = self.choose_packing(step)
        rows = self.batch if packing is _SHORT else -(-self.batch // 2)
        random = np.random.default_rng([self.seed, step])
        seeds = TRAINING_SKIES + random.integers(0, 2**40, rows)
        length = packing.clean + packing.chunk
        clips = [Sky(int(seed)).frames(int(random.integers(0, 10_000)), length) for seed in seeds]
        with torch.no_grad():
            pictures = pictures_to_tensor(np.concatenate(clips)).to(self.device)
            latents: Tensor = self.encoder(pictures).reshape(rows, length, *LATENT_SHAPE)
        return latents

    def advance(self, clips: Tensor) -> list[float]:
        """Take one step on ``clips`` and return its losses."""
        step = len(self.losses)
        factor = _rate(step, self.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.zero_grad()
        parts = self.measure(clips, step)
        loss = parts[0] + parts[1] + _LOOK_AHEAD_WEIGHT * parts[2]
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.look_ahead.parameters()], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self._average(step)
        self.losses.append([part.item() for part in parts])
        return self.losses[-1]

    def measure(self, clips: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of ``clips`` under the noise of ``step``."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        packing = self.choose_packing(step)
        rows, chunks = len(clips), len(packing.prefixes)
        start = torch.randint(self.config.position_count if packing is _FULL else 1, (rows,), generator=random)
        chunk = torch.stack([clips[:, prefix : prefix + packing.chunk] for prefix in packing.prefixes], dim=1)
        noise = torch.randn(chunk.shape, generator=random).to(self.device)
        timesteps = _spread_timesteps((rows, chunks), random).to(self.device)
        noisy = self.diffusion.add_noise(chunk, noise, timesteps)
        latents = torch.cat([self._perturb(clips[:, : packing.clean], random), noisy.flatten(1, 2)], dim=1)
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(torch.device(self.device).type, torch.bfloat16):
            x, embedding = run_packed(self.model, packing, latents, timesteps.float(), start.to(self.device))
        predicted, variance = self._predict(packing, x, embedding, chunk.shape)
        losses = self.diffusion.measure(chunk, noise, timesteps, predicted, variance)
        return losses.simple, losses.variational, self._look_ahead(packing, x, clips)

    def _predict(self, packing: Packing, x: Tensor, embedding: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return v and the variance value of the noisy frames; the bound trains only the final layer."""
        noisy, embedding = x[:, packing.clean :], embedding[:, packing.clean :]
        final, channels = self.model.final_layer, self.config.latent_channels
        out = final.unpatchify(final(noisy, embedding))
        other = final.unpatchify(final(noisy.detach(), embedding.detach()))
        return out[:, :, :channels].reshape(shape), other[:, :, channels:].reshape(shape)

    def _look_ahead(self, packing: Packing, x: Tensor, clips: Tensor) -> Tensor:
        clean = packing.clean
        out = self.look_ahead(x[:, :clean])
        out = out.reshape(*out.shape[:3], self.config.patch_size, self.config.patch_size, len(_LOOK_AHEAD), -1)
        changes = [clips[:, ahead : ahead + clean] - clips[:, :clean] for ahead in _LOOK_AHEAD]
        error: Tensor = (out - _patchify(torch.stack(changes, dim=2), self.config.patch_size)).square().mean()
        return error

    def _perturb(self, clean: Tensor, random: torch.Generator) -> Tensor:
        """Add a little noise to the prefix of every other clip (Ca2-VDM section 3.4)."""
        levels = torch.randint(-_PREFIX_NOISE_BELOW, _PREFIX_NOISE_BELOW, (len(clean),), generator=random)
        noise = torch.randn(clean.shape, generator=random).to(self.device)
        perturbed = self.diffusion.add_noise(clean, noise, levels.clamp(min=0).to(self.device))
        return torch.where((levels > 0).to(self.device)[:, None, None, None, None], perturbed, clean)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        keep = min(_AVERAGE, (1 + step) / (10 + step))
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1.0 - keep)

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(
            self.path,
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "look_ahead": self.look_ahead.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "losses": self.losses,
                "seed": self.seed,
                "batch": self.batch,
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.look_ahead.load_state_dict(state["look_ahead"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.losses, self.seed, self.batch = state["losses"], state["seed"], state["batch"]


def load_average(path: Path) -> tuple[CausalTransformer, int]:
    """Return the averaged model of a checkpoint, in evaluation mode, and its number of training steps."""
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"no transformer at '{path}'; train it first: train.py transformer")
    model = CausalTransformer(CONFIG)
    model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False), len(state["losses"])


@torch.no_grad()
def _initialize(model: CausalTransformer) -> CausalTransformer:
    """Initialize every gate to be open, and the output of every branch to zero."""
    modulate = model.t_block[1]
    assert isinstance(modulate, nn.Linear)
    nn.init.zeros_(modulate.weight)
    nn.init.zeros_(modulate.bias)
    for name, parameter in model.blocks.named_parameters():
        if name.endswith("scale_shift_table"):
            parameter.copy_(torch.tensor([0.0, 0, 1, 0, 0, 1])[:, None].expand(-1, model.config.hidden_size))
        elif ".proj." in name or ".fc2." in name or name.endswith("pre_merge.bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("pre_merge.weight"):
            nn.init.eye_(parameter)
            nn.init.normal_(parameter[:, -1], std=0.5)
    nn.init.zeros_(model.final_layer.linear.weight)
    nn.init.zeros_(model.final_layer.linear.bias)
    model.final_layer.scale_shift_table.zero_()
    nn.init.normal_(model.x_embedder.proj.weight, std=0.25)
    return model


def _make_optimizers(modules: list[nn.Module]) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            inside = name.startswith("blocks.") and name.endswith("weight") and "merge" not in name
            (matrices if inside else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=_MUON_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=_ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        optimizer.param_groups[0]["peak"] = optimizer.param_groups[0]["lr"]
    return [muon, adam]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate: warm-up, constant, then linear decay; ``steps`` may be raised before the decay."""
    left = (steps - step) / max(1.0, _DECAY_SHARE * steps)
    return min(1.0, (step + 1) / _WARM_UP, max(left, 0.01))


def _spread_timesteps(shape: tuple[int, int], random: torch.Generator) -> Tensor:
    """Draw timesteps that are spread evenly over the process within each batch."""
    count = math.prod(shape)
    strata = (torch.randperm(count, generator=random) + torch.rand(count, generator=random)) / count
    return (strata * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1).reshape(shape)


def _patchify(frames: Tensor, p: int) -> Tensor:
    """Rearrange [B, F, n, c, h, w] to [B, F, S, p, p, n, c]."""
    rows, count, kinds, channels, height, width = frames.shape
    grid = frames.reshape(rows, count, kinds, channels, height // p, p, width // p, p)
    return grid.permute(0, 1, 4, 6, 5, 7, 2, 3).reshape(rows, count, -1, p, p, kinds, channels)
