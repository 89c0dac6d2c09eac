"""The KV ring against a plain list that keeps the last K latent frames."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdmrt.runtime._core import Ring


def newest_by_slot(history: list[int], capacity: int) -> list[int]:
    """Return what each slot must hold after all of ``history`` was written, -1 where nothing was."""
    return [max((frame for frame in history if frame % capacity == slot), default=-1) for slot in range(capacity)]


@st.composite
def capacities_and_counts(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Draw a capacity and the lengths of a prefix and the chunks after it."""
    slots = draw(st.integers(1, 40))
    return slots, draw(st.lists(st.integers(1, slots), max_size=60))


def write_chunk(ring: Ring, slots: list[int], count: int) -> None:
    """Write ``count`` frames into ``slots`` as the plan says, and count them."""
    for slot, first, length in ring.segments(count):
        for offset in range(length):
            slots[slot + offset] = ring.written + first + offset
    ring.advance(count)


def test_a_ring_begins_where_another_stood() -> None:
    ring, other = Ring(7), Ring(7, written=9)
    ring.advance(5)
    ring.advance(4)

    assert [other.frame(slot) for slot in range(7)] == [ring.frame(slot) for slot in range(7)]
    assert (other.written, other.visible, other.segments(6)) == (9, 7, ring.segments(6))
    with pytest.raises(ValueError, match="ring needs 0 <= written <= 281474976710655, got -1"):
        Ring(7, written=-1)


@given(capacities_and_counts())
@settings(deadline=None)
def test_ring_keeps_the_last_frames(case: tuple[int, list[int]]) -> None:
    capacity, counts = case
    ring, slots = Ring(capacity), [-1] * capacity
    history: list[int] = []
    for count in counts:
        history += range(len(history), len(history) + count)
        write_chunk(ring, slots, count)

        assert (ring.written, ring.visible) == (len(history), min(len(history), capacity))
        assert slots == newest_by_slot(history, capacity)
        assert slots == [ring.frame(slot) for slot in range(capacity)]
        assert sorted(slots)[capacity - ring.visible :] == history[-capacity:]


@given(capacities_and_counts(), st.data())
@settings(deadline=None)
def test_segments_cover_the_chunk_in_order(case: tuple[int, list[int]], data: st.DataObject) -> None:
    capacity, counts = case
    ring = Ring(capacity)
    for earlier in counts:
        ring.advance(earlier)
    count = data.draw(st.integers(1, capacity))
    segments = ring.segments(count)

    assert 1 <= len(segments) <= 2
    assert [first + i for _, first, length in segments for i in range(length)] == list(range(count))
    touched = [slot + i for slot, _, length in segments for i in range(length)]
    assert touched == [(sum(counts) + i) % capacity for i in range(count)]
    assert len(set(touched)) == count


@pytest.mark.parametrize(("capacity", "prefix", "chunk"), [(25, 1, 8), (25, 9, 8), (8, 8, 8), (7, 3, 5), (1, 1, 1)])
def test_thousands_of_steps_end_where_the_list_ends(capacity: int, prefix: int, chunk: int) -> None:
    ring, slots = Ring(capacity), [-1] * capacity
    history = list(range(prefix))
    write_chunk(ring, slots, prefix)
    for _ in range(5000):
        history += range(len(history), len(history) + chunk)
        write_chunk(ring, slots, chunk)

        assert sorted(slots)[capacity - ring.visible :] == history[-capacity:]
    assert slots == newest_by_slot(history, capacity)


def test_planning_writes_nothing() -> None:
    ring = Ring(5)
    ring.advance(4)

    assert ring.segments(3) == ring.segments(3) == ((4, 0, 1), (0, 1, 2))
    assert (ring.written, ring.visible) == (4, 4)


def test_chunk_that_ends_at_the_last_slot_is_one_segment() -> None:
    ring = Ring(8)
    ring.advance(3)

    assert ring.segments(5) == ((3, 0, 5),)


def test_new_ring_is_empty() -> None:
    ring = Ring(slots=3)

    assert (ring.slots, ring.written, ring.visible) == (3, 0, 0)
    assert [ring.frame(slot) for slot in range(3)] == [-1, -1, -1]


def test_reset_forgets_all_frames() -> None:
    ring = Ring(3)
    ring.advance(2)
    ring.advance(3)
    ring.reset()

    assert (ring.slots, ring.written, ring.visible) == (3, 0, 0)
    assert [ring.frame(slot) for slot in range(3)] == [-1, -1, -1]


@pytest.mark.parametrize("slots", [0, -1, 65537, 2**64, -(2**70)])
def test_capacity_out_of_range_is_refused(slots: int) -> None:
    with pytest.raises(ValueError, match=f"^ring needs 1 <= slots <= 65536, got {slots}$"):
        Ring(slots)


@pytest.mark.parametrize("count", [0, -1, 26, 2**63, 2**64 - 1, 2**64])
def test_count_out_of_range_is_refused_and_changes_nothing(count: int) -> None:
    ring = Ring(25)
    for method in (ring.segments, ring.advance):
        with pytest.raises(ValueError, match=f"^ring needs 1 <= count <= 25, got {count}$"):
            method(count)

    assert ring.written == 0


@pytest.mark.parametrize("slot", [-1, 25, 2**64])
def test_slot_out_of_range_is_refused(slot: int) -> None:
    with pytest.raises(ValueError, match=f"^ring needs 0 <= slot <= 24, got {slot}$"):
        Ring(25).frame(slot)


def test_numbers_that_are_not_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        Ring(4).advance(1.0)  # type: ignore[arg-type]


def test_attributes_are_read_only() -> None:
    with pytest.raises(AttributeError, match="written"):
        Ring(4).written = 3  # type: ignore[misc]
