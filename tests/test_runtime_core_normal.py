"""Counter-based normals: known answers, distribution, and independence of how they are asked for."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdmrt.runtime._core import INITIAL_NOISE, PREFIX_NOISE, STEP_NOISE, fill_normal

Floats = NDArray[np.float32]
FULL_WORD = 2**32 - 1
KNOWN = (-0.29094836, 0.36521268, 0.7407167, 0.3042338, 0.11738484, -0.6184683)


def normals(count: int, seed: int = 11, frame: int = 3, step: int = 2, kind: int = STEP_NOISE) -> Floats:
    values = np.full(count, np.nan, np.float32)
    fill_normal(values.ctypes.data, count, seed=seed, frame=frame, step=step, kind=kind)
    return values


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return Philox4x32-10 as the paper writes it, in Python's integers."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k, right & FULL_WORD, (left >> 32) ^ d ^ m, left & FULL_WORD
        k, m = (k + 0x9E3779B9) & FULL_WORD, (m + 0xBB67AE85) & FULL_WORD
    return a, b, c, d


def block_of_normals(block: int, *, seed: int, frame: int, step: int, kind: int) -> list[float]:
    """Return the four normals of one element block by the layout that normal.h documents."""
    counter = (block, frame & FULL_WORD, (frame >> 32) | (step << 16), kind)
    a, b, c, d = ((word + 0.5) / 2**32 for word in philox(counter, (seed & FULL_WORD, seed >> 32)))
    polar = [(math.sqrt(-2 * math.log(u)), 2 * math.pi * v) for u, v in ((a, b), (c, d))]
    return [radius * turn(angle) for radius, angle in polar for turn in (math.cos, math.sin)]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL_WORD,) * 4, (FULL_WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_reference_gives_the_answers_of_random123(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key) == words


@given(
    seed=st.integers(0, 2**64 - 1),
    frame=st.integers(0, 2**48 - 1),
    step=st.integers(0, 2**16 - 1),
    kind=st.sampled_from([INITIAL_NOISE, STEP_NOISE, PREFIX_NOISE]),
    block=st.integers(0, 40),
)
@settings(deadline=None)
def test_layout_is_the_documented_one(seed: int, frame: int, step: int, kind: int, block: int) -> None:
    got = normals(4 * block + 4, seed, frame, step, kind)[-4:]
    wanted = np.array(block_of_normals(block, seed=seed, frame=frame, step=step, kind=kind), np.float32)

    np.testing.assert_array_max_ulp(got, wanted, maxulp=1)


def test_normals_never_change() -> None:
    """These numbers are in every reproducible result: a change here is a break, not a fix."""
    wanted = np.array(KNOWN, np.float32)

    np.testing.assert_array_max_ulp(normals(6, seed=2**40 + 5, frame=2**33 + 1, step=7), wanted, maxulp=1)


def test_moments_are_those_of_a_standard_normal() -> None:
    values = normals(1_000_000).astype(np.float64)
    deviations = [math.sqrt(variance / values.size) for variance in (1, 2, 15, 96)]

    for power, (wanted, deviation) in enumerate(zip((0, 1, 0, 3), deviations, strict=True), start=1):
        assert abs(np.mean(values**power) - wanted) < 4 * deviation, power


def test_distribution_is_normal_by_kolmogorov_and_smirnov() -> None:
    values = np.sort(normals(200_000, seed=5).astype(np.float64))
    cdf = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values])
    steps = np.arange(values.size + 1) / values.size
    distance = max(np.max(cdf - steps[:-1]), np.max(steps[1:] - cdf))

    assert distance < 1.63 / math.sqrt(values.size)  # the 1 % point


def test_neighbors_are_uncorrelated() -> None:
    values = normals(200_000, seed=9).astype(np.float64)
    for lag in (1, 2, 3, 4, 8):
        assert abs(np.mean(values[lag:] * values[:-lag])) < 4 / math.sqrt(values.size), lag


@pytest.mark.parametrize("other", [{"seed": 12}, {"seed": 11 + 2**32}, {"frame": 4}, {"frame": 3 + 2**32},
                                   {"step": 3}, {"kind": INITIAL_NOISE}, {"kind": PREFIX_NOISE}])  # fmt: skip
def test_every_coordinate_gives_other_noise(other: dict[str, int]) -> None:
    one, two = normals(100_000).astype(np.float64), normals(100_000, **other).astype(np.float64)

    assert not np.any(one[:1000] == two[:1000])
    assert abs(np.mean(one * two)) < 4 / math.sqrt(one.size)


@given(st.integers(0, 70))
@settings(deadline=None)
def test_a_shorter_fill_is_a_prefix(count: int) -> None:
    np.testing.assert_array_equal(normals(count), normals(70)[:count])


def test_fill_writes_nothing_behind_its_end() -> None:
    values = np.full(12, 7.0, np.float32)
    fill_normal(values.ctypes.data, 9, seed=0, frame=0, step=0, kind=INITIAL_NOISE)

    assert values[9:].tolist() == [7.0, 7.0, 7.0]


def test_same_arguments_give_the_same_bits_in_every_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        filled = list(pool.map(lambda _: normals(50_000).tobytes(), range(8)))

    assert set(filled) == {normals(50_000).tobytes()}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"count": -1}, "fill_normal needs 0 <= count <= 17179869183, got -1"),
        ({"count": 2**34}, "fill_normal needs 0 <= count <= 17179869183, got 17179869184"),
        ({"seed": -1}, "fill_normal needs 0 <= seed <= 18446744073709551615, got -1"),
        ({"seed": 2**64}, "fill_normal needs 0 <= seed <= 18446744073709551615, got 18446744073709551616"),
        ({"frame": 2**48}, "fill_normal needs 0 <= frame <= 281474976710655, got 281474976710656"),
        ({"frame": -1}, "fill_normal needs 0 <= frame <= 281474976710655, got -1"),
        ({"step": 2**16}, "fill_normal needs 0 <= step <= 65535, got 65536"),
        ({"kind": 3}, "fill_normal needs 0 <= kind <= 2, got 3"),
        ({"address": 0}, "fill_normal needs 1 <= address <= 18446744073709551615, got 0"),
        ({"address": 4098}, "fill_normal needs an address that is a multiple of 4, got 4098"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, int], sentence: str) -> None:
    values = np.zeros(4, np.float32)
    right = {"address": values.ctypes.data, "count": 4, "seed": 0, "frame": 0, "step": 0, "kind": 0}
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        fill_normal(**(right | wrong))

    assert not values.any()


def test_missing_argument_is_named() -> None:
    with pytest.raises(TypeError, match="^fill_normal needs the argument 'step'$"):
        fill_normal(4096, 0, seed=0, frame=0, kind=0)  # type: ignore[call-arg]
