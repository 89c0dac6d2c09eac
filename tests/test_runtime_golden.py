"""The whole way against what the original code computed: export, bundle, ONNX Runtime session, every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import golden
import numpy as np
import pytest
from golden import Array, Case, assert_close, frames_first, relative_error

import vdmrt
from vdmrt.bundle import FP16, FP32
from vdmrt.export import ExportOptions, export_bundle
from vdmrt.export.checkpoint import load_model
from vdmrt.export.families.ca2vdm.arguments import config_from_arguments
from vdmrt.runtime import Model, Noise, Session, advance

ROLLOUTS = golden.rollouts()
each_rollout = pytest.mark.parametrize(("case", "rollout"), ROLLOUTS, ids=lambda part: getattr(part, "name", part))
# Exports a case for a chunk length and a number of slots, each only once.
Export = Callable[[Case, int, int], Path]
# Largest error of an FP16 rollout, free-running and teacher-forced, relative L2.
FREE_RUNNING, TEACHER_FORCED = 1e-2, 3e-3


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export each case once for each geometry that its rollouts need, in both precisions."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def bundle(case: Case, chunk: int, slots: int) -> Path:
        options = ExportOptions(
            precisions=(FP32, FP16),
            chunk_frames=chunk,
            slots=slots,
            requests=case.config["rollout_batch"],
        )
        model = load_model(config_from_arguments(case.config["model"]), case.folder)
        return export_bundle(model, folder / f"{case.name}-{chunk}-{slots}", options, name=case.name).path

    return bundle


class Rollout:
    """A recorded rollout, row by row."""

    def __init__(self, case: Case, name: str) -> None:
        self.case, self.name = case, name
        self.settings = case.config["rollouts"][name]
        self.rows = range(case.config["rollout_batch"])
        self.steps: int = self.settings["num_sampling_steps"]
        self.chunk: int = self.settings["chunk_len"]
        self.chunks = range(self.settings["ar_steps"])

    def load(self, bundles: Export, precision: str) -> Model:
        path = bundles(self.case, self.chunk, self.settings["kv_cache_max_seqlen"])
        return vdmrt.load(path, precision=precision, verify=False)

    def record(self, name: str) -> Array:
        return self.case.tensors[f"{self.name}.{name}"]

    def start(self, model: Model, row: int) -> Session:
        text = {}
        if model.manifest.geometry.text_width:
            text = {
                "text": self.case.tensors["text.prompt_y"][row, 0],
                "text_mask": self.case.text_mask(row),
                "guidance": self.settings["cfg_scale"],
            }
        perturb = self.settings["prefix_perturb_t"]
        session = model.session(
            seed=0, sampler="iddpm", steps=self.steps, prefix_noise=perturb if perturb > 0 else None, **text
        )
        prefix = frames_first(self.record("perturb_noise_cond")[row]) if perturb > 0 else None
        session.start(frames_first(self.record("cond")[row]), noise=Noise(prefix=prefix))
        return session

    def first(self, index: int) -> int:
        return int(self.settings["num_cond_frames"]) + index * self.chunk

    def noise(self, index: int, row: int) -> Noise:
        first = self.first(index)
        return Noise(
            initial=frames_first(self.record("init_noise")[row, :, first : first + self.chunk]),
            steps=np.stack([frames_first(step) for step in self.record("step_noise")[index, :, row]]),
            prefix=self.prefix_noise(index, row),
        )

    def prefix_noise(self, index: int, row: int) -> Array | None:
        if self.settings["prefix_perturb_t"] <= 0:
            return None
        return frames_first(self.record("perturb_noise")[index, row])

    def latents(self, index: int, row: int) -> Array:
        first = self.first(index)
        return frames_first(self.record("latents")[row, :, first : first + self.chunk])


def run_together(rollout: Rollout, sessions: Sequence[Session]) -> Iterator[tuple[int, int, Array]]:
    """Yield chunk, row and latents of all rows stepped in the same runs of the graph."""
    for index in rollout.chunks:
        made = advance(sessions, noise=[rollout.noise(index, row) for row in rollout.rows])
        yield from ((index, row, chunk.latents) for row, chunk in zip(rollout.rows, made, strict=True))


@each_rollout
def test_fp32_rollout_as_rows_of_one_lane(case: Case, rollout: str, bundles: Export) -> None:
    record = Rollout(case, rollout)
    with record.load(bundles, "fp32") as model:
        sessions = [record.start(model, row) for row in record.rows]
        for index, row, latents in run_together(record, sessions):
            wanted = record.latents(index, row)
            assert_close(f"chunk {index} row {row}", latents, wanted, 5 * case.atol(rollout))
        for session in sessions:
            check_cache(record, session, sessions.index(session))


@each_rollout
def test_fp32_rollout_as_sessions_on_their_own(case: Case, rollout: str, bundles: Export) -> None:
    record = Rollout(case, rollout)
    with record.load(bundles, "fp32") as model:
        for row in record.rows:
            with record.start(model, row) as session:
                for index in record.chunks:
                    latents = session.step(noise=record.noise(index, row)).latents
                    wanted = record.latents(index, row)
                    assert_close(f"chunk {index} row {row}", latents, wanted, 5 * case.atol(rollout))


@each_rollout
def test_fp16_rollout_free_running(case: Case, rollout: str, bundles: Export) -> None:
    record = Rollout(case, rollout)
    with record.load(bundles, "fp16") as model:
        sessions = [record.start(model, row) for row in record.rows]
        found = {(index, row): latents for index, row, latents in run_together(record, sessions)}

    for index in record.chunks:
        made = np.stack([found[index, row] for row in record.rows])
        wanted = np.stack([record.latents(index, row) for row in record.rows])
        assert relative_error(made, wanted) <= FREE_RUNNING, f"chunk {index}"


@pytest.mark.parametrize(
    ("case", "rollout"),
    [(case, name) for case, name in ROLLOUTS if f"{name}.model_out" in case.tensors],
    ids=lambda part: getattr(part, "name", part),
)
def test_fp16_calls_teacher_forced(case: Case, rollout: str, bundles: Export) -> None:
    """Each recorded x_t through the graph, over a cache of recorded latents, gives the recorded model output."""
    record = Rollout(case, rollout)
    out = record.record("model_out")
    with record.load(bundles, "fp16") as model:
        for row in record.rows:
            session = record.start(model, row)
            for index in record.chunks:
                for step in range(record.steps):
                    found = probe(session, frames_first(record.record("x_t")[index, step, row]), step)
                    error = relative_error(found, frames_first(out[index, step, row]))
                    assert error <= TEACHER_FORCED, f"chunk {index} row {row} step {step}: {error:.2e}"
                session.extend(record.latents(index, row), noise=Noise(prefix=record.prefix_noise(index, row)))


def probe(session: Session, x: Array, step: int) -> Array:
    """Return the guided model output for x [T, c, h, w], read out through a table that passes it on.

    With a_m = 1 the estimate of the clean latent is the prediction; with r0 = -1, r1 = 2 and noise 1 the next latent
    is exp(v / 2), v the variance value.
    """
    lane, request = session.lane, session.request
    timesteps, coefficients = (part.copy() for part in session.table.padded(lane.geometry.max_steps))
    timesteps[0] = timesteps[step]
    coefficients[0] = (0, 1, 0, 0, 0, 1, -1, 2)
    lane.conditioning.set_table(request, timesteps, coefficients)
    session.generation.begin(Noise(initial=x, steps=np.ones((session.table.steps, *x.shape), np.float32)))
    lane.denoising.run(1, lambda done: None)
    parts = [lane.denoising.history(request)]
    if lane.geometry.learned_variance:
        parts.append(2 * np.log(lane.denoising.latent(request)))
    return np.concatenate(parts, axis=1)


def check_cache(record: Rollout, session: Session, row: int) -> None:
    """Hold the final cache against the recorded queue, slot by slot, and the frames that lie in it."""
    cache, frames = session.cache()
    queue = record.record("cache_frames")[-1]
    assert sorted(frames) == sorted(queue)
    if f"{record.name}.cache_kv" not in record.case.tensors:
        return
    recorded = record.record("cache_kv")[-1][:, row]  # [depth, queue, S, 2C]
    depth, _, width = recorded.shape[0], recorded.shape[1], recorded.shape[3] // 2
    for place, frame in enumerate(queue):
        if frame < 0:
            continue
        slot = cache[:, :, -1, :, frames.index(frame)]  # the prompt's row, [L, 2, S*H, d]
        found = slot.reshape(depth, 2, -1, width).transpose(0, 2, 1, 3).reshape(depth, -1, 2 * width)
        assert_close(f"frame {frame}", found, recorded[:, place], 5 * record.case.atol(record.name))
