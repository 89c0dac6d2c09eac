"""Recorded cases of causal Wan models: finding them by kind, and the names of their tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import golden
import torch
from reference_sampler import FlowGrid
from safetensors.torch import load_file
from torch import Tensor

from vdmrt.export.families.wan.config import WanConfig

DEFAULT = Path(__file__).parents[1] / "data" / "golden_wan"
ROOT = Path(os.environ.get("VDMRT_GOLDEN_WAN") or DEFAULT)
KINDS = {"rollout", "keys", "vae", "scheduler"}


@dataclass(frozen=True)
class WanCase(golden.Case):
    """One recorded case; ``root`` is the folder of all cases."""

    root: Path = ROOT

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def kind(self) -> str:
        return str(self.config["kind"])

    @property
    def policy(self) -> dict[str, Any]:
        policy: dict[str, Any] = self.config["cache_policy"]
        return policy

    @property
    def rollouts(self) -> dict[str, dict[str, Any]]:
        """Return what is special about each rollout, by the prefix of its tensors' names."""
        rollouts: dict[str, dict[str, Any]] = self.config["rollouts"]
        return rollouts

    @property
    def grid(self) -> FlowGrid:
        return FlowGrid(self.policy["scheduler_shift"])

    def has(self, entry: str) -> bool:
        return entry in self.config["has"]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.tensors[name])

    def prompts(self) -> dict[str, str]:
        """Return the suffix of each prompt's tensors, by its name."""
        names = list(self.config["prompt_lengths"])
        return {name: f"_{name}" if len(names) > 1 else "" for name in names}

    def step(self, rollout: str, name: str, chunk: int, step: int) -> Tensor:
        """Return a tensor of one denoising call; chunk 0 has names of its own where it has its own steps."""
        if not self.has("first_chunk_steps"):
            return self.tensor(f"{rollout}.{name}")[chunk, step]
        return (
            self.tensor(f"{rollout}.{name}_first")[0] if chunk == 0 else self.tensor(f"{rollout}.{name}")[chunk - 1]
        )[step]

    def timesteps(self, chunk: int) -> list[float]:
        """Return the timesteps of a chunk's denoising calls."""
        first = self.policy.get("denoising_steps_of_chunk_0") if chunk == 0 else None
        return self.grid.resolve(first or self.policy["denoising_steps"], warped=self.policy["warped"])

    def noise_of(self, rollout: str) -> str:
        """Return the rollout whose tensors are the noise of this one."""
        return str(self.rollouts[rollout].get("noise_of", rollout))

    def first_frame(self, chunk: int) -> int:
        """Return the number of a chunk's first latent frame, given ones counted."""
        return int(self.config["initial_latent_frames"] + chunk * self.policy["frames_per_chunk"])

    def switch_chunk(self, rollout: str) -> int | None:
        """Return the chunk before which the prompt changes, or None."""
        frame = self.rollouts[rollout].get("switch_at_frame")
        chunks = range(self.config["chunks"])
        return None if frame is None else next(chunk for chunk in chunks if self.first_frame(chunk) >= frame)


def cases(kind: str) -> list[WanCase]:
    """Return all cases of a kind; those of the repository where the folder has none of it, so that none is skipped."""
    return _find(ROOT, kind) or _find(DEFAULT, kind)


def _find(root: Path, kind: str) -> list[WanCase]:
    found = [WanCase(path.parent.name, root) for path in sorted(root.glob("*/config.json"))]
    assert found, f"no recorded case in {root}; set VDMRT_GOLDEN_WAN to a folder of cases"
    unknown = {case.name: case.kind for case in found if case.kind not in KINDS}
    assert not unknown, f"unknown kinds: {unknown}"
    return [case for case in found if case.kind == kind]


def config_of(case: WanCase) -> WanConfig:
    """Return the architecture and the policy of a case of kind "rollout"."""
    model, policy = case.config["model"], case.policy
    return WanConfig(
        latent=tuple(model["latent"]),
        dim=model["dim"],
        heads=model["num_heads"],
        ffn_dim=model["ffn_dim"],
        layers=model["num_layers"],
        text_len=model["text_len"],
        text_dim=model["text_dim"],
        in_channels=model["in_dim"],
        freq_dim=model["freq_dim"],
        eps=model["eps"],
        **policy_of(policy),
    )


def policy_of(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :class:`WanConfig` that a recorded cache policy determines."""
    return {
        "frames_per_chunk": policy["frames_per_chunk"],
        "window_frames": policy["window_frames"],
        "sink_frames": policy["sink_frames"],
        "positions": policy["positions"],
        "context_timestep": float(policy["context_noise"]),
    }


@cache
def weights_of(case: WanCase) -> dict[str, Tensor]:
    """Return the recorded weights under the file's names. Not to be changed."""
    weights: dict[str, Tensor] = load_file(case.folder / "state_dict.safetensors")
    return weights


def assert_close(what: str, found: Tensor, wanted: Tensor, atol: float) -> None:
    """Compare tensors, and print the largest difference, its position and its share of the tolerance."""
    golden.assert_close(what, found.numpy(), wanted.numpy(), atol)
