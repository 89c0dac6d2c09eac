"""The KV ring compared with a plain list that keeps the sinks and the last latent frames."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdmrt.runtime._core import Ring


def slot_of(frame: int, capacity: int, sinks: int) -> int:
    """Return the slot of a latent frame, as design and header state it."""
    return frame if frame < sinks else sinks + (frame - sinks) % (capacity - sinks)


def newest_by_slot(history: list[int], capacity: int, sinks: int = 0) -> list[int]:
    """Return what each slot must hold after all of ``history`` was written, -1 where nothing was."""
    newest = [-1] * capacity
    for frame in history:
        newest[slot_of(frame, capacity, sinks)] = frame
    return newest


@st.composite
def rings_and_counts(draw: st.DrawFn) -> tuple[Ring, list[int]]:
    """Draw an empty ring and the lengths of a prefix and the chunks after it."""
    slots = draw(st.integers(1, 40))
    sinks = draw(st.integers(0, slots - 1))
    return Ring(slots, sinks=sinks), draw(st.lists(st.integers(1, slots - sinks), max_size=60))


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


@given(rings_and_counts())
@settings(deadline=None)
def test_ring_keeps_the_sinks_and_the_last_frames(case: tuple[Ring, list[int]]) -> None:
    ring, counts = case
    slots = [-1] * ring.slots
    history: list[int] = []
    for count in counts:
        history += range(len(history), len(history) + count)
        write_chunk(ring, slots, count)

        assert (ring.written, ring.visible) == (len(history), min(len(history), ring.slots))
        assert slots == newest_by_slot(history, ring.slots, ring.sinks)
        assert slots == [ring.frame(slot) for slot in range(ring.slots)]
        kept = history[: ring.sinks] + history[ring.sinks :][ring.sinks - ring.slots :]
        assert sorted(slots)[ring.slots - ring.visible :] == kept


@given(rings_and_counts(), st.data())
@settings(deadline=None)
def test_segments_cover_the_chunk_in_order(case: tuple[Ring, list[int]], data: st.DataObject) -> None:
    ring, counts = case
    for earlier in counts:
        ring.advance(earlier)
    count = data.draw(st.integers(1, ring.slots - ring.sinks))
    segments = ring.segments(count)

    assert 1 <= len(segments) <= 2
    assert [first + i for _, first, length in segments for i in range(length)] == list(range(count))
    touched = [slot + i for slot, _, length in segments for i in range(length)]
    assert touched == [slot_of(sum(counts) + i, ring.slots, ring.sinks) for i in range(count)]
    assert len(set(touched)) == count


def test_sinks_are_never_overwritten() -> None:
    ring = Ring(5, sinks=2)
    ring.advance(3)
    ring.advance(3)

    assert (ring.sinks, [ring.frame(slot) for slot in range(5)]) == (2, [0, 1, 5, 3, 4])
    assert ring.segments(3) == ((3, 0, 2), (2, 2, 1))


def test_more_frames_than_slots_beside_the_sinks_are_refused() -> None:
    ring = Ring(5, sinks=2)
    for method in (ring.segments, ring.advance):
        with pytest.raises(ValueError, match="^ring needs 1 <= count <= 3, got 4$"):
            method(4)

    assert ring.written == 0


@pytest.mark.parametrize("sinks", [-1, 5, 2**64])
def test_sinks_that_leave_no_slot_are_refused(sinks: int) -> None:
    with pytest.raises(ValueError, match=f"^ring needs 0 <= sinks <= 4, got {sinks}$"):
        Ring(5, sinks=sinks)


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
