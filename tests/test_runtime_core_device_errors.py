"""What the host's device says when it is misused or has no memory."""

from __future__ import annotations

import numpy as np
import pytest

from vdmrt.errors import DeviceError
from vdmrt.runtime import _core
from vdmrt.runtime._core import host_device

PLAIN_COPY = {
    "width": 8,
    "height": 3,
    "depth": 1,
    "destination_pitch": 8,
    "destination_height": 3,
    "source_pitch": 8,
    "source_height": 3,
}


def test_too_much_memory_says_what_was_wanted_and_what_to_do() -> None:
    device = host_device()
    kept = device.allocate(48)
    sentence = r"^allocate: wanted 4611686018427387904 bytes, .* \(48 bytes are allocated here\); close what"
    with pytest.raises(DeviceError, match=sentence) as caught:
        device.allocate(2**62)

    assert caught.value.call == "allocate"
    assert device.allocated_nbytes == kept.nbytes


@pytest.mark.parametrize("nbytes", [0, -1, 2**63, 2**64, -(2**64)])
def test_lengths_out_of_range_are_refused(nbytes: int) -> None:
    sentence = f"^allocate needs 1 <= nbytes <= 9223372036854775807, got {nbytes}$"
    with pytest.raises(ValueError, match=sentence):
        host_device().allocate(nbytes)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 9}, "copy_3d needs 0 <= width <= 8, got 9"),
        ({"width": -1}, "copy_3d needs 0 <= width <= 8, got -1"),
        ({"height": 4}, "copy_3d needs 0 <= height <= 3, got 4"),
        ({"depth": -1}, "copy_3d needs 0 <= depth <= 18446744073709551615, got -1"),
        ({"source_pitch": 5, "width": 6}, "copy_3d needs 0 <= width <= 5, got 6"),
        ({"source_height": -2}, "copy_3d needs 0 <= source_height <= 18446744073709551615, got -2"),
        ({"destination_height": 1}, "copy_3d needs 0 <= height <= 1, got 3"),
        ({"destination": 0}, "copy_3d needs 1 <= destination <= 18446744073709551615, got 0"),
        ({"source": -5}, "copy_3d needs 1 <= source <= 18446744073709551615, got -5"),
        ({"depth": 2**63}, "copy_3d needs ranges inside the address space, got one that runs past its end"),
    ],
)
def test_copies_out_of_range_are_refused(wrong: dict[str, int], sentence: str) -> None:
    device, block = host_device(), np.zeros(64, np.uint8)
    right = {"destination": block.ctypes.data, "source": block.ctypes.data + 32} | PLAIN_COPY
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        device.copy_3d(**(right | wrong))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 9}, "zero_2d needs 0 <= width <= 8, got 9"),
        ({"height": -1}, "zero_2d needs 0 <= height <= 18446744073709551615, got -1"),
        ({"pitch": 2**64}, "zero_2d needs 0 <= pitch <= 18446744073709551615, got 18446744073709551616"),
        ({"address": 0}, "zero_2d needs 1 <= address <= 18446744073709551615, got 0"),
        ({"height": 2**62}, "zero_2d needs ranges inside the address space, got one that runs past its end"),
    ],
)
def test_rows_out_of_range_are_refused(wrong: dict[str, int], sentence: str) -> None:
    block = np.ones(64, np.uint8)
    right = {"address": block.ctypes.data, "width": 4, "height": 2, "pitch": 8}
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        host_device().zero_2d(**(right | wrong))

    assert block.all()


def test_missing_argument_is_named() -> None:
    with pytest.raises(TypeError, match="^zero_2d needs the argument 'pitch'$"):
        host_device().zero_2d(4096, width=0, height=0)  # type: ignore[call-arg]


def test_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="sheight"):
        host_device().zero_2d(4096, width=0, height=0, sheight=0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("Device", r"host_device\(\) or cuda_device\(\)"),
        ("Memory", r"Device\.allocate"),
        ("Events", r"Device\.events"),
        ("Graph", r"Device\.end_capture"),
    ],
)
def test_direct_construction_names_the_maker(name: str, maker: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} cannot be constructed directly; it is made by {maker}$"):
        getattr(_core, name)()
