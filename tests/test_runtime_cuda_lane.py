"""Lanes on CUDA: ONNX Runtime's numbers through streams, copies, capture and replay of the fake driver."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import Code, FakeCuda, Live, enabled_fake_cuda
from host_function_backend import HostFunctionBackend

import vdmrt
from vdmrt.bundle import FP32, Precision, open_bundle
from vdmrt.errors import BackendError, DeviceError
from vdmrt.runtime import Model, Session, advance

Array = npt.NDArray[np.float32]
CHUNKS = 5  # of 3 frames into 7 slots: empty, filling, full and wrapped twice


@pytest.fixture
def on_cuda(fake_cuda: FakeCuda) -> Iterator[Callable[..., Model]]:
    """Load bundles onto the fake GPU; nothing may be left of them afterwards."""
    models: list[Model] = []

    def load(bundle: Path, precision: str = "fp32", *, cuda_graph: bool = True) -> Model:
        models.append(
            Model(open_bundle(bundle), HostFunctionBackend(), Precision.parse(precision), cuda_graph=cuda_graph)
        )
        return models[-1]

    yield load
    while models:
        models.pop().close()
    gc.collect()
    assert fake_cuda.violations() == []
    left = fake_cuda.live()
    assert (left.allocations, left.pinned, left.streams, left.events, left.graph_execs, left.contexts) == (0,) * 6


def first(model: Model, count: int = 2) -> Array:
    shape = model.manifest.geometry.latent_shape
    return np.random.default_rng(5).standard_normal((count, *shape)).astype(np.float32)


def text(model: Model) -> Array | None:
    g = model.manifest.geometry
    return np.random.default_rng(6).standard_normal((1, g.text_width)).astype(np.float32) if g.text_width else None


def rollout(session: Session, chunks: int = CHUNKS) -> Array:
    return np.concatenate([session.step().latents for _ in range(chunks)])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_rollout_on_cuda_is_the_cpus_bit_for_bit(
    tiny_bundle: Path, on_cuda: Callable[..., Model], precision: str, cuda_graph: bool
) -> None:
    with vdmrt.load(tiny_bundle, precision=precision, threads=1) as cpu, cpu.session(seed=3, steps=4) as session:
        session.start(first(cpu))
        wanted, cache = rollout(session), session.cache()[0]

    model = on_cuda(tiny_bundle, precision, cuda_graph=cuda_graph)
    with model.session(seed=3, steps=4) as session:
        session.start(first(model))
        found = rollout(session)

        assert session.lane.denoising.replays == cuda_graph
        assert np.array_equal(found, wanted)
        assert np.array_equal(session.cache()[0], cache)


def test_guidance_text_and_absolute_positions_reach_the_gpu(text_bundle: Path, on_cuda: Callable[..., Model]) -> None:
    def run(model: Model) -> Array:
        with model.session(seed=1, steps=3, sampler="ddim", text=text(model), guidance=3.0) as session:
            session.start(first(model, 1))
            return rollout(session, 2)

    with vdmrt.load(text_bundle, precision="fp32", threads=1) as cpu:
        wanted = run(cpu)

    assert np.array_equal(run(on_cuda(text_bundle, "fp32")), wanted)


def test_requests_of_one_lane_step_together(tiny_bundle: Path, on_cuda: Callable[..., Model]) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    alone = []
    for seed in (1, 2):
        with model.session(seed=seed, steps=3) as session:
            session.start(first(model, seed))
            alone.append(rollout(session, 3))

    with model.session(seed=1, steps=3) as one, model.session(seed=2, steps=3) as two:
        assert one.lane is two.lane
        one.start(first(model, 1))
        two.start(first(model, 2))
        made = [advance([one, two]) for _ in range(3)]

    for row, wanted in enumerate(alone):
        assert np.array_equal(np.concatenate([chunks[row].latents for chunks in made]), wanted)


def test_what_a_rollout_asks_of_the_driver(
    tiny_bundle: Path, on_cuda: Callable[..., Model], fake_cuda: FakeCuda
) -> None:
    model = on_cuda(tiny_bundle, "fp16")
    with model.session(seed=3, steps=4) as session:
        session.start(first(model))
        made = fake_cuda.counts()
        fake_cuda.clear_calls()
        rollout(session)
    calls, moved = fake_cuda.counts(), fake_cuda.bytes_moved()
    g = model.manifest.geometry

    assert made["cuStreamBeginCapture_v2"] == made["cuGraphInstantiateWithFlags"] == 1
    for name in ("cuMemAlloc_v2", "cuMemHostAlloc", "cuStreamBeginCapture_v2", "cuStreamCreate", "cuEventCreate"):
        assert name not in calls, name
    assert calls["cuGraphLaunch"] == 4 * CHUNKS
    assert calls["cuLaunchHostFunc"] == CHUNKS  # the fills; denoising is in the graph
    # The one traffic of the cache: K and V of each chunk, once, of the one request that stepped.
    elements = 2 * g.layers * g.rows_per_request * g.chunk_frames * g.tokens_per_frame * g.heads * g.head_size
    assert moved["3D"] == 2 * elements * CHUNKS
    assert calls["cuMemcpy3DAsync_v2"] <= 2 * CHUNKS
    # A step hands on its latent, step and history, and nothing else.
    assert "cuMemcpyDtoDAsync_v2" not in calls
    assert fake_cuda.bytes_moved("graphs")["3D"] == 0


def test_the_host_does_nothing_between_steps_that_nobody_watches(
    tiny_bundle: Path, on_cuda: Callable[..., Model], fake_cuda: FakeCuda
) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    with model.session(seed=3, steps=6) as session:
        session.start(first(model))
        fake_cuda.clear_calls()
        timings = session.step().timings
    names = [call.name for call in fake_cuda.calls()]
    between = names[names.index("cuGraphLaunch") : len(names) - names[::-1].index("cuGraphLaunch") + 1]

    # Least of all: a launch, the one event that both times the step and holds the next but one back, a look at it.
    assert between == ["cuGraphLaunch", "cuEventRecord"] * 2 + ["cuEventQuery", "cuGraphLaunch", "cuEventRecord"] * 4
    assert len(timings.denoise_ms) == len(timings.enqueue_us) == 6
    assert timings.fill_ms > 0 and timings.scatter_ms > 0


def test_a_step_can_be_watched_and_cancelled(tiny_bundle: Path, on_cuda: Callable[..., Model]) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    with model.session(seed=3, steps=6) as session, model.session(seed=3, steps=6) as untouched:
        session.start(first(model))
        untouched.start(first(model))
        told: list[int] = []

        def stop(done: int) -> None:
            told.append(done)
            if done == 2:
                raise KeyError("enough")

        with pytest.raises(KeyError, match="enough"):
            session.step(on_step=stop)

        assert told == [1, 2]
        assert np.array_equal(session.step().latents, untouched.step().latents)


def test_a_stream_makes_the_next_chunk_while_one_is_used(tiny_bundle: Path, on_cuda: Callable[..., Model]) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    with model.session(seed=3, steps=2) as session:
        session.start(first(model))
        wanted = [chunk.latents for chunk in session.stream(4)]
        session.start(first(model))
        found = [chunk.latents for chunk in session.stream(4, ahead=True)]

        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert session.next_latent_frame == 2 + 4 * 3


def test_leaving_a_stream_cancels_the_chunk_under_way(tiny_bundle: Path, on_cuda: Callable[..., Model]) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    with model.session(seed=3, steps=6) as session:
        session.start(first(model))
        stream = session.stream(ahead=True)
        next(stream)
        stream.close()

        assert session.next_latent_frame in (2 + 3, 2 + 6)
        session.step()


def test_lanes_in_threads_share_nothing_but_the_programs(tiny_bundle: Path, on_cuda: Callable[..., Model]) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    requests = model.manifest.geometry.requests
    sessions = [model.session(seed=seed, steps=3) for seed in range(2 * requests)]
    alone = {}
    for session in (sessions[0], sessions[-1]):
        session.start(first(model))
        alone[session] = rollout(session)
    assert sessions[0].lane is not sessions[-1].lane
    assert sessions[0].lane.device.stream != sessions[-1].lane.device.stream

    found: dict[Session, Array] = {}

    def work(session: Session) -> None:
        session.start(first(model))
        found[session] = rollout(session)

    threads = [threading.Thread(target=work, args=(session,)) for session in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(np.array_equal(found[session], wanted) for session, wanted in alone.items())


def test_warmup_leaves_nothing_for_the_first_chunk(
    tiny_bundle: Path, on_cuda: Callable[..., Model], fake_cuda: FakeCuda
) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    assert model.warmup() > 0
    fake_cuda.clear_calls()

    with model.session(seed=3, steps=4) as session:
        session.start(first(model))
        session.step()

    assert not {"cuMemAlloc_v2", "cuMemHostAlloc", "cuStreamBeginCapture_v2"} & set(fake_cuda.counts())


def test_a_replay_that_differs_from_eager_is_refused(tiny_bundle: Path, fake_cuda: FakeCuda) -> None:
    """What a library does on a stream of its own escapes the capture, and the replay would show stale pictures."""
    backend = HostFunctionBackend(escapes_capture=True)
    model = Model(open_bundle(tiny_bundle), backend, FP32)

    with pytest.raises(BackendError, match="'latent' of a replayed denoising step differs from an eager one"):
        model.session(seed=0)

    model.close()
    del model
    gc.collect()
    assert fake_cuda.live().allocations == 0


def test_latents_on_the_device_are_seen_without_a_copy(
    tiny_bundle: Path, on_cuda: Callable[..., Model], fake_cuda: FakeCuda
) -> None:
    model = on_cuda(tiny_bundle, "fp32")
    with model.session(seed=3, steps=2) as session:
        session.start(first(model))
        chunk = session.step()
        fake_cuda.clear_calls()
        seen = chunk.device_latents.__cuda_array_interface__

        assert seen["data"][0] == chunk.device_latents.address and seen["stream"] == session.lane.device.stream
        assert seen["shape"] == chunk.latents.shape and seen["typestr"] == "<f4" and seen["version"] == 3
        assert chunk.device_latents.__dlpack_device__() == (2, 0)
        assert fake_cuda.counts() == {}
        assert np.array_equal(chunk.device_latents.numpy(), chunk.latents)


def test_latents_of_the_host_go_out_by_dlpack(tiny_bundle: Path) -> None:
    with vdmrt.load(tiny_bundle, threads=1) as model, model.session(seed=3, steps=2) as session:
        session.start(first(model))
        chunk = session.step()

        seen = np.from_dlpack(chunk.device_latents)

        assert np.array_equal(seen, chunk.latents) and not np.shares_memory(seen, chunk.latents)
        assert not hasattr(chunk.device_latents, "__cuda_array_interface__")


def test_too_little_memory_leaves_the_model_usable(tiny_bundle: Path) -> None:
    with enabled_fake_cuda(memory_nbytes=44 << 20) as fake:
        model = Model(open_bundle(tiny_bundle), HostFunctionBackend(scratch_nbytes=12 << 20), FP32)
        sessions = [model.session(seed=seed, steps=2) for seed in range(model.manifest.geometry.requests)]
        with pytest.raises(DeviceError, match=r"wanted \d+ bytes, GPU 0 has \d+ of 46137344 bytes free"):
            model.session(seed=9, steps=2)

        sessions[0].start(first(model))
        assert len(sessions[0].step().latents) == 3
        model.close()
        del model, sessions
        gc.collect()
        left = fake.live()
        assert (left.allocations, left.pinned, left.contexts) == (0, 0, 0)


# Every call of the driver fails once


def scenario(model: Model) -> None:
    with model.session(seed=3, steps=2) as session:
        session.start(first(model))
        session.step()
        session.step()


def test_whatever_call_fails_is_named_and_everything_is_given_back(tiny_bundle: Path) -> None:
    """Each function fails at its first, second, middle and last call; see the slow test for every single one."""
    bundle = open_bundle(tiny_bundle)
    with enabled_fake_cuda() as fake:
        model = Model(bundle, HostFunctionBackend(), FP32)
        fake.clear_calls()
        scenario(model)
        counts = fake.counts()
        model.close()
        del model  # with its device: a context is released by number, and the next machine has one of that number
        gc.collect()
    places = {(name, nth) for name, count in counts.items() for nth in {1, 2, count // 2, count} if 1 <= nth <= count}

    for name, nth in sorted(places):
        with enabled_fake_cuda() as fake:
            fail_once(bundle_model(bundle), fake, name, nth)


@pytest.mark.slow
def test_every_single_call_may_fail(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    nth = 1
    while True:
        with enabled_fake_cuda() as fake:
            if not fail_once(bundle_model(bundle), fake, None, nth):
                break
        nth += 1

    assert nth > 300


def bundle_model(bundle: vdmrt.bundle.Bundle) -> Model:
    return Model(bundle, HostFunctionBackend(), FP32)


def fail_once(model: Model, fake: FakeCuda, name: str | None, nth: int) -> bool:
    """Let one call of a scenario fail; return whether there was such a call."""
    fake.fail(Code.UNKNOWN, nth=nth, name=name)
    error: BaseException | None = None
    try:
        scenario(model)
    except DeviceError as caught:
        error = caught.with_traceback(None)
    hit = fake.failed()
    try:
        model.close()
    except DeviceError as caught:
        error = error or caught.with_traceback(None)
    hit = hit or fake.failed()
    said, error = str(error), None
    fake.fail(Code.UNKNOWN, nth=0)  # a destructor cannot raise
    del model
    gc.collect()

    where = f"call {nth} of {name or 'all'}: {hit}: {said}"
    assert hit is None or hit in said, where
    assert fake.violations() == [], where
    left = fake.live()
    assert Live(current=left.current) == left, where
    return hit is not None
