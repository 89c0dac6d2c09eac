"""Arrays of other libraries on a GPU, given to a session: copied once their stream has passed, or refused by name."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import FakeCuda, enabled_fake_cuda
from gpu_arrays import DlpackArray, InterfaceArray
from host_function_backend import HostFunctionBackend

import vdmrt
from vdmrt.bundle import FP32, open_bundle
from vdmrt.errors import DeviceError, TensorMismatchError
from vdmrt.runtime import Model, Noise
from vdmrt.runtime._core import cuda_device, host_device, inspect_dlpack
from vdmrt.runtime.device.array_input import host_array

Array = npt.NDArray[Any]
NUMBERS = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


@pytest.fixture
def fake(fake_cuda: FakeCuda) -> Iterator[FakeCuda]:
    """The fake GPU; nothing may be left on it afterwards."""
    yield fake_cuda
    gc.collect()
    assert fake_cuda.violations() == [] and fake_cuda.live().allocations == 0


def latents(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 4, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", [DlpackArray, InterfaceArray])
def test_frames_noise_and_text_on_the_gpu_count_as_those_of_the_host(
    tiny_bundle: Path, fake: FakeCuda, kind: Callable[[Array], Any]
) -> None:
    initial, steps = latents(3), np.stack([latents(3)] * 2)

    def run(model: Model, give: Callable[[Array], Any]) -> Array:
        with model.session(seed=3, sampler="ddpm", steps=2, prefix_noise=500) as session:
            session.start(give(latents(2)), noise=Noise(prefix=give(latents(2))))
            session.extend(give(latents(3)))
            noise = Noise(initial=give(initial), steps=give(steps), prefix=give(initial))
            return np.concatenate([session.step(noise=noise).latents, session.step().latents])

    with Model(open_bundle(tiny_bundle), HostFunctionBackend(), FP32) as model:
        assert np.array_equal(run(model, kind), run(model, lambda values: values))


def test_text_on_the_gpu(text_bundle: Path, fake: FakeCuda) -> None:
    text = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    mask = np.array([1, 1, 0], np.float32)
    made = []
    with Model(open_bundle(text_bundle), HostFunctionBackend(), FP32) as model:
        for give in (DlpackArray, InterfaceArray, np.asarray):
            with model.session(seed=0, steps=2, text=give(text), text_mask=give(mask)) as session:
                session.start(np.zeros((1, 4, 4, 4), np.float32))
                made.append(session.step().latents)

    assert np.array_equal(made[0], made[2]) and np.array_equal(made[1], made[2])


def test_latents_of_one_session_go_into_another(tiny_bundle: Path, fake: FakeCuda) -> None:
    with Model(open_bundle(tiny_bundle), HostFunctionBackend(), FP32) as model:
        with model.session(seed=3, steps=2) as source, model.session(seed=4, steps=2) as target:
            source.start(latents(2))
            chunk = source.step()
            target.start(chunk.device_latents)
            found = target.step().latents
            target.start(chunk.latents)
            assert np.array_equal(target.step().latents, found)


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "u1", "i4"])
@pytest.mark.parametrize("kind", [DlpackArray, InterfaceArray])
def test_numbers_arrive_as_they_are(fake: FakeCuda, kind: Callable[[Array], Any], dtype: str) -> None:
    values = (10 * NUMBERS).astype(dtype)

    found = host_array("frames", kind(values), cuda_device)

    assert found.dtype == values.dtype and np.array_equal(found, values)


@pytest.mark.parametrize("options", [{"axes": (2, 0, 1)}, {"reversed_first": True}, {"axes": (1, 2, 0)}])
def test_strides_of_any_kind_are_followed(fake: FakeCuda, options: dict[str, Any]) -> None:
    given = InterfaceArray(NUMBERS, **options)

    assert np.array_equal(host_array("frames", given, cuda_device), given.values)


def test_an_empty_array_touches_no_memory(fake: FakeCuda) -> None:
    given = InterfaceArray(np.zeros((0, 3), np.float32))

    assert host_array("frames", given, cuda_device).shape == (0, 3)


def test_the_producers_stream_is_waited_for(fake: FakeCuda) -> None:
    """DLPack passes our stream to the producer; with the older protocol we wait for the stream it names."""
    device = cuda_device()
    ours, theirs = DlpackArray(NUMBERS), InterfaceArray(NUMBERS)
    fake.clear_calls()

    host_array("frames", theirs, lambda: device)
    waits = [call.stream for call in fake.calls() if call.name == "cuStreamSynchronize"]
    host_array("frames", ours, lambda: device)

    assert waits == [theirs.device.stream, device.stream]
    assert ours.streams == [device.stream]
    for default in (1, 2):  # legacy, and per thread
        host_array("frames", InterfaceArray(NUMBERS, stream=default), lambda: device)


def test_an_array_of_another_gpu_is_refused_with_both_named() -> None:
    with enabled_fake_cuda(devices=2) as fake:
        for kind in (DlpackArray, InterfaceArray):
            with pytest.raises(
                TensorMismatchError, match=r"'frames': is on cuda:1, and this model runs on cuda:0; .*to\('cuda:0'\)"
            ):
                host_array("frames", kind(NUMBERS, index=1), cuda_device)
        gc.collect()
        assert fake.live().allocations == 0


def test_an_array_of_a_gpu_is_refused_by_a_model_of_the_host(tiny_bundle: Path, fake: FakeCuda) -> None:
    with vdmrt.load(tiny_bundle, device="cpu", threads=1) as model, model.session(seed=3, steps=2) as session:
        with pytest.raises(TensorMismatchError, match=r"'first': is on cuda:0, and this model runs on the host; "):
            session.start(DlpackArray(latents(1)))
        with pytest.raises(TensorMismatchError, match=r"'first': is on a GPU, and this model runs on the host; "):
            session.start(InterfaceArray(latents(1)))
        session.start(latents(1))
        with pytest.raises(TensorMismatchError, match=r"'noise.initial': is on cuda:0"):
            session.step(noise=Noise(initial=DlpackArray(latents(3))))


def test_what_numpy_has_no_name_for_is_refused(fake: FakeCuda) -> None:
    with pytest.raises(TensorMismatchError, match=r"DLPack's type code 4 with 16 bits.*convert it, as by \.float"):
        host_array("frames", DlpackArray(NUMBERS.astype(np.float16), code=4), cuda_device)
    with pytest.raises(TensorMismatchError, match="is on a device of DLPack's type 10; copy it to the host"):
        host_array("frames", DlpackArray(NUMBERS, kind=10), cuda_device)
    with pytest.raises(TensorMismatchError, match="has a mask, which is not supported"):
        host_array("frames", InterfaceArray(NUMBERS, mask=NUMBERS), cuda_device)
    with pytest.raises(TensorMismatchError, match="names stream 0, which its interface forbids"):
        host_array("frames", InterfaceArray(NUMBERS, stream=0), cuda_device)


def test_wrong_values_on_the_gpu_get_the_sentence_of_the_host(tiny_bundle: Path, fake: FakeCuda) -> None:
    with Model(open_bundle(tiny_bundle), HostFunctionBackend(), FP32) as model:
        with model.session(seed=3, steps=2) as session:
            with pytest.raises(TensorMismatchError, match=r"'latents': wanted \[n, c, h, w\] = \[any, 4, 4, 6\]"):
                session.start(DlpackArray(NUMBERS))
            fake.fail(719, name="cuMemcpyDtoHAsync_v2")
            with pytest.raises(DeviceError, match="cuMemcpyDtoHAsync_v2: CUDA_ERROR_LAUNCH_FAILED"):
                session.start(DlpackArray(latents(1)))
            session.start(DlpackArray(latents(1)))


def test_the_core_says_what_it_cannot_look_up() -> None:
    with pytest.raises(RuntimeError, match="locate is nothing that this device can do"):
        host_device().locate(64)
    with pytest.raises(RuntimeError, match="synchronize_stream is nothing that this device can do"):
        host_device().synchronize_stream(1)
    with pytest.raises(TypeError, match="inspect_dlpack needs a capsule 'dltensor' that nobody consumed"):
        inspect_dlpack(7)
