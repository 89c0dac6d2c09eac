"""The recorded rollouts through a backend: latents of every step, and each call over recorded latents."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..running.record import Missing, Recorder
from ..running.settings import Settings, load_model, need_gpu
from .distance import relative_error
from .plans import has_engine, place_bundle
from .safetensors_file import load_tensors

__all__ = ["FREE_RUNNING", "OVER_REFERENCE", "TEACHER_FORCED", "check_golden"]

Array = npt.NDArray[Any]
# Largest relative L2 errors of FP16: of an autoregressive step, and of a call over recorded latents.
FREE_RUNNING, TEACHER_FORCED = 1e-2, 3e-3
# Largest error over that of the same typed graph on ONNX Runtime's CPU provider.
OVER_REFERENCE = 1.5
# FP32 may differ by this many times the recorded tolerance.
ATOL_FACTOR = 5


def check_golden(settings: Settings, record: Recorder, *, backend: str, precisions: tuple[str, ...]) -> None:
    """Hold every recorded rollout against the gates.

    Raises:
        Missing: There are no recorded cases, or no GPU.
    """
    need_gpu(settings)
    rollouts = list(find_rollouts(Path(settings.golden)))
    if not rollouts:
        raise Missing(f"no recorded case in {settings.golden}")
    reference = read_reference(settings)
    for rollout in rollouts[:2] if settings.rehearse else rollouts:
        for precision in precisions:
            try:
                with load_model(_bundle(rollout, settings, backend), backend, precision, settings.device) as model:
                    if precision == "fp32":
                        check_exact(rollout, model, record)
                    else:
                        check_half(rollout, model, record, reference)
            except Missing as missing:
                record.missing(f"golden {rollout.key} {precision}", str(missing))
            except Exception as error:  # the next rollout may run all the same
                what = f"golden {rollout.key} {precision}, failed"
                record.add(what, 1, most=0, error=f"{type(error).__name__}: {error}"[:1500])


def _bundle(rollout: Rollout, settings: Settings, backend: str) -> Path:
    """Return the bundle of a rollout; for TensorRT the copy that has engines.

    Raises:
        Missing: It is not there, or has none.
    """
    if backend != "tensorrt":
        folder = Path(settings.bundles) / rollout.bundle
        if not folder.is_dir():
            raise Missing(f"no bundle {folder}; the base kit carries it")
        return folder
    folder = place_bundle(settings, rollout.bundle)
    if not has_engine(folder):
        raise Missing(f"no engine in {folder}; run the stage build-tensorrt")
    return folder


class Rollout:
    """A recorded rollout.

    Attributes:
        key: Case and name, for people.
        bundle: Name of the bundle with its geometry.
    """

    def __init__(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.settings: dict[str, Any] = config["rollouts"][name]
        self.key = f"{folder.name} {name}"
        self.rows = range(config["rollout_batch"])
        self.steps: int = self.settings["num_sampling_steps"]
        self.chunk: int = self.settings["chunk_len"]
        self.chunks = range(self.settings["ar_steps"])
        self.bundle = f"{folder.name}-{self.chunk}-{self.settings['kv_cache_max_seqlen']}"

    @functools.cached_property
    def tensors(self) -> dict[str, Array]:
        """Everything recorded of the case."""
        return load_tensors(self.folder / "io.safetensors")

    @property
    def atol(self) -> float:
        """The recorded tolerance."""
        meta = json.loads((self.folder / "meta.json").read_text())
        return float(meta["suggested_atol"][self.name])

    def record(self, name: str) -> Array:
        """Return a record of this rollout."""
        return self.tensors[f"{self.name}.{name}"]

    @property
    def has_calls(self) -> bool:
        """Whether inputs and outputs of each call were recorded."""
        return f"{self.name}.model_out" in self.tensors

    def start(self, model: Any, row: int) -> Any:
        """Return a session that has begun with the recorded frames of a row."""
        from vdmrt.runtime import Noise

        text = {}
        if model.manifest.geometry.text_width:
            mask = self.tensors["text.mask"]
            text = {
                "text": self.tensors["text.prompt_y"][row, 0],
                "text_mask": mask[row % len(mask)].astype(np.float32),
                "guidance": self.settings["cfg_scale"],
            }
        level = self.settings["prefix_perturb_t"]
        session = model.session(
            seed=0, sampler="iddpm", steps=self.steps, prefix_noise=level if level > 0 else None, **text
        )
        prefix = frames_first(self.record("perturb_noise_cond")[row]) if level > 0 else None
        session.start(frames_first(self.record("cond")[row]), noise=Noise(prefix=prefix))
        return session

    def noise(self, index: int, row: int) -> Any:
        """Return the recorded random numbers of a chunk."""
        from vdmrt.runtime import Noise

        first = self._first(index)
        return Noise(
            initial=frames_first(self.record("init_noise")[row, :, first : first + self.chunk]),
            steps=np.stack([frames_first(step) for step in self.record("step_noise")[index, :, row]]),
            prefix=self.prefix_noise(index, row),
        )

    def prefix_noise(self, index: int, row: int) -> Array | None:
        """Return what perturbed a chunk before it was cached, or None."""
        if self.settings["prefix_perturb_t"] <= 0:
            return None
        return frames_first(self.record("perturb_noise")[index, row])

    def latents(self, index: int, row: int) -> Array:
        """Return the recorded latents of a chunk, [T, c, h, w]."""
        first = self._first(index)
        return frames_first(self.record("latents")[row, :, first : first + self.chunk])

    def _first(self, index: int) -> int:
        return int(self.settings["num_cond_frames"]) + index * self.chunk


def find_rollouts(folder: Path) -> Iterator[Rollout]:
    """Yield every rollout that counts: of a model with the first-frame context, those with the fix."""
    for path in sorted(folder.glob("*/config.json")):
        config = json.loads(path.read_text())
        if "model" not in config:
            continue
        is_first_frame = config.get("effective_spatial_attn_enhance") == "first_frame"
        for name, settings in config["rollouts"].items():
            if bool(settings.get("first_frame_fix") or name.endswith("_fixed")) == is_first_frame:
                yield Rollout(path.parent, name, config)


def check_exact(rollout: Rollout, model: Any, record: Recorder) -> None:
    """Hold an FP32 rollout against its tolerance."""
    allowed = ATOL_FACTOR * rollout.atol
    worst = 0.0
    for index, made in run_rollout(rollout, model):
        wanted = np.stack([rollout.latents(index, row) for row in rollout.rows])
        worst = max(worst, float(np.abs(made.astype(np.float64) - wanted).max())) if np.isfinite(made).all() else np.inf
    record.add(
        f"golden {rollout.key} fp32, largest difference over {ATOL_FACTOR} x suggested_atol",
        worst / allowed,
        most=1.0,
        largest_difference=worst,
        allowed=allowed,
        autoregressive_steps=len(rollout.chunks),
    )


def check_half(rollout: Rollout, model: Any, record: Recorder, reference: dict[str, float]) -> None:
    """Hold an FP16 rollout, free-running and call by call, against the gates and the reference's errors."""
    errors = []
    for index, made in run_rollout(rollout, model):
        errors.append(relative_error(made, np.stack([rollout.latents(index, row) for row in rollout.rows])))
    _record_half(f"golden {rollout.key} fp16 free-running", errors, FREE_RUNNING, record, reference)
    if rollout.has_calls:
        calls = list(call_errors(rollout, model))
        _record_half(f"golden {rollout.key} fp16 teacher-forced", calls, TEACHER_FORCED, record, reference)


def _record_half(what: str, errors: list[float], most: float, record: Recorder, reference: dict[str, float]) -> None:
    worst = float(np.max(errors))
    record.add(f"{what}, worst relative L2", worst, most=most, median=float(np.median(errors)), count=len(errors))
    wanted = reference.get(f"{what}, worst relative L2")
    if wanted is not None:
        over = f"{what}, over ONNX Runtime CPU"
        record.add(over, worst / wanted, most=OVER_REFERENCE, reference=wanted)


def run_rollout(rollout: Rollout, model: Any) -> Iterator[tuple[int, Array]]:
    """Yield each chunk's number and the latents of all rows, [rows, T, c, h, w], stepped together."""
    from vdmrt.runtime import advance

    sessions = [rollout.start(model, row) for row in rollout.rows]
    for index in rollout.chunks:
        made = advance(sessions, noise=[rollout.noise(index, row) for row in rollout.rows])
        yield index, np.stack([np.asarray(chunk.latents) for chunk in made])
    for session in sessions:
        session.close()


def call_errors(rollout: Rollout, model: Any) -> Iterator[float]:
    """Yield the error of each call: recorded x_t over a cache of recorded latents."""
    from vdmrt.runtime import Noise

    out, inputs = rollout.record("model_out"), rollout.record("x_t")
    for row in rollout.rows:
        with rollout.start(model, row) as session:
            for index in rollout.chunks:
                for step in range(rollout.steps):
                    found = probe(session, frames_first(inputs[index, step, row]), step)
                    yield relative_error(found, frames_first(out[index, step, row]))
                session.extend(rollout.latents(index, row), noise=Noise(prefix=rollout.prefix_noise(index, row)))


def probe(session: Any, x: Array, step: int) -> Array:
    """Return the guided model output for x [T, c, h, w], read out through a table that passes it on.

    With a_m = 1 the estimate of the clean latent is the prediction; with r0 = -1, r1 = 2 and noise 1 the next latent
    is exp(v / 2), v the variance value.
    """
    from vdmrt.runtime import Noise

    lane, request = session.lane, session.request
    timesteps, coefficients = (part.copy() for part in session.table.padded(lane.geometry.max_steps))
    timesteps[0] = timesteps[step]
    coefficients[0] = (0, 1, 0, 0, 0, 1, -1, 2)
    lane.conditioning.set_table(request, timesteps, coefficients)
    session.generation.begin(Noise(initial=x, steps=np.ones((session.table.steps, *x.shape), np.float32)))
    lane.denoising.run(1, lambda done: None)
    parts = [np.asarray(lane.denoising.history(request))]
    if lane.geometry.learned_variance:
        parts.append(2 * np.log(np.asarray(lane.denoising.latent(request))))
    return np.concatenate(parts, axis=1)


def read_reference(settings: Settings) -> dict[str, float]:
    """Return the recorded figures of another run of this script by name; none without a reference."""
    if settings.reference is None:
        return {}
    document = json.loads(Path(settings.reference).read_text())
    records = [record for stage in document["stages"].values() for record in stage["records"]]
    return {record["what"]: record["value"] for record in records if record.get("value") is not None}


def frames_first(video: Array) -> Array:
    """Turn [c, t, h, w] to contiguous [t, c, h, w]."""
    return np.ascontiguousarray(video.swapaxes(0, 1))
