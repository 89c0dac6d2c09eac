"""Host memory and pitched copies against numpy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdmrt.runtime._core import Memory, host_device

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Copy:
    """One pitched copy: the extent, and how much larger rows and planes are on either side."""

    width: int
    height: int
    depth: int
    destination_pitch: int
    destination_height: int
    source_pitch: int
    source_height: int


@st.composite
def copies(draw: st.DrawFn) -> Copy:
    """Draw a copy of up to 12 x 6 x 4 bytes, often without gaps."""
    width, height, depth = draw(st.integers(0, 12)), draw(st.integers(0, 6)), draw(st.integers(0, 4))
    gaps = [draw(st.sampled_from((0, 1, 3))) for _ in range(4)]
    return Copy(width, height, depth, width + gaps[0], height + gaps[1], width + gaps[2], height + gaps[3])


def view(memory: Memory) -> Bytes:
    """Return the bytes of ``memory``, to be used before it is closed."""
    array_type = ctypes.c_uint8 * memory.nbytes
    return np.ctypeslib.as_array(array_type.from_address(memory.address))


@given(copies(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=500)
def test_copy_agrees_with_numpy(copy: Copy, seed: int) -> None:
    shape = (copy.depth, copy.source_height, copy.source_pitch)
    source = np.random.default_rng(seed).integers(1, 256, shape, np.uint8)
    found = np.zeros((copy.depth, copy.destination_height, copy.destination_pitch), np.uint8)
    wanted = found.copy()
    wanted[:, : copy.height, : copy.width] = source[:, : copy.height, : copy.width]
    host_device().copy_3d(found.ctypes.data, source.ctypes.data, **vars(copy))

    np.testing.assert_array_equal(found, wanted)


@given(st.integers(0, 20), st.integers(0, 10), st.integers(0, 5))
@settings(deadline=None)
def test_zero_clears_rows_and_nothing_between_them(width: int, height: int, gap: int) -> None:
    found = np.full((height, width + gap), 9, np.uint8)
    wanted = found.copy()
    wanted[:, :width] = 0
    host_device().zero_2d(found.ctypes.data, width=width, height=height, pitch=width + gap)

    np.testing.assert_array_equal(found, wanted)


def test_chunk_is_scattered_into_a_request_of_the_slab() -> None:
    """The one use that counts: T staged frames of one request into its slots, all layers in one copy."""
    layers, rows, heads, slots, frames, head_nbytes = 3, 2, 4, 7, 2, 16
    staging = np.arange(layers * rows * heads * frames * head_nbytes, dtype=np.uint8)
    staging = staging.reshape(layers, rows, heads, frames, head_nbytes)
    slab = np.zeros((layers, rows, heads, slots, head_nbytes), np.uint8)
    wanted = slab.copy()
    wanted[:, 1, :, 4:6] = staging[:, 1]
    host_device().copy_3d(
        slab[0, 1, 0, 4:].ctypes.data,
        staging[0, 1].ctypes.data,
        width=frames * head_nbytes,
        height=heads,
        depth=layers,
        destination_pitch=slots * head_nbytes,
        destination_height=rows * heads,
        source_pitch=frames * head_nbytes,
        source_height=rows * heads,
    )

    np.testing.assert_array_equal(slab, wanted)


@pytest.mark.parametrize("nbytes", [1, 63, 64, 65, 4097, 1_000_003])
def test_memory_is_aligned_and_zero_even_where_dirt_was(nbytes: int) -> None:
    device = host_device()
    for _ in range(3):
        memory = device.allocate(nbytes)

        assert memory.address % 64 == 0
        assert not view(memory).any()
        view(memory)[:] = 255
        memory.close()


def test_account_follows_every_allocation() -> None:
    device = host_device()
    first, second = device.allocate(100), device.allocate(23)
    assert device.allocated_nbytes == 123

    first.close()
    assert device.allocated_nbytes == 23

    del second
    assert device.allocated_nbytes == 0


def test_devices_have_accounts_of_their_own() -> None:
    one, two = host_device(), host_device()
    memory = one.allocate(8)

    assert (one.name, one.allocated_nbytes, two.allocated_nbytes) == ("host", memory.nbytes, 0)
