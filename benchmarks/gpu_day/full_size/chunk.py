"""The first denoising step after one given frame, in numbers that do not depend on who computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FirstChunk"]

Array = npt.NDArray[Any]


class FirstChunk:
    """Seeded inputs: a frame, text, initial noise, and a table of one deterministic step.

    Attributes:
        bundle: Whose sizes they have.
    """

    def __init__(self, bundle: Any, seed: int) -> None:
        self.bundle = bundle
        g = bundle.manifest.geometry
        rng = np.random.default_rng(seed)
        self.frame = rng.standard_normal((1, *g.latent_shape), dtype=np.float32)
        self.initial = rng.standard_normal((g.chunk_frames, *g.latent_shape), dtype=np.float32)
        self.text = rng.standard_normal((g.text_tokens, g.text_width), dtype=np.float32)

    def session_arguments(self, steps: int = 1) -> dict[str, Any]:
        """Return what a session is made with."""
        given: dict[str, Any] = {"seed": 0, "sampler": "ddim", "steps": steps}
        if self.bundle.manifest.geometry.text_width:
            given |= {"text": self.text, "guidance": 1.0}
        return given

    def run(self, session: Any) -> Array:
        """Return the latents that a session of :meth:`session_arguments` makes of it, [T, c, h, w]."""
        from vdmrt.runtime import Noise

        session.start(self.frame)
        return np.asarray(session.step(noise=Noise(initial=self.initial)).latents)

    def fill_inputs(self) -> dict[str, Array]:
        """Return what the fill graph reads."""
        from vdmrt.runtime.cache.window import context_frames

        g = self.bundle.manifest.geometry
        latent = np.zeros((1, g.chunk_frames, *g.latent_shape), np.float32)
        latent[0, :1] = self.frame
        return {"latent": latent, "context_index": context_frames(g, 1), **self._window(0, 1), **self._text()}

    def denoise_inputs(self) -> dict[str, Array]:
        """Return what the denoise graph reads beside cache and context; noise, history and step are 0."""
        from vdmrt.runtime.sampling.samplers import make_sampler
        from vdmrt.runtime.sampling.schedules import Schedule

        manifest = self.bundle.manifest
        g = manifest.geometry
        table = make_sampler(
            "ddim",
            steps=1,
            prediction=manifest.prediction,
            schedule=Schedule(**vars(manifest.schedule)),
            learned_variance=g.learned_variance,
        )
        timesteps, coefficients = table.padded(g.max_steps)
        given = {"timesteps": timesteps, "coefficients": coefficients, "guidance": np.ones(1, np.float32)}
        return {"latent": self.initial, **given, **self._window(1, g.chunk_frames), **self._text()}

    def _window(self, written: int, count: int) -> dict[str, Array]:
        from vdmrt.runtime._core import Ring
        from vdmrt.runtime.cache.window import make_window

        g = self.bundle.manifest.geometry
        ring = Ring(g.slots)
        if written:
            ring.advance(written)
        return {str(role): tensor for role, tensor in make_window(g, ring, count).tensors.items()}

    def _text(self) -> dict[str, Array]:
        g = self.bundle.manifest.geometry
        if not g.text_width:
            return {}
        null = np.load(self.bundle.locate(self.bundle.manifest.null_text))
        rows = [self.text] if g.rows_per_request == 1 else [null, self.text]
        return {"text": np.stack(rows), "text_mask": np.ones((len(rows), g.text_tokens), np.float32)}
