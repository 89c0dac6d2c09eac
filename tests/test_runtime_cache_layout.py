"""The lane cache in both layouts and with sinks, compared with plain arrays; and positions beside sinks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vdmrt.bundle import FP32, CacheLayout, CachePolicy, Geometry, Graph, PositionScheme, Role, Stage, open_bundle
from vdmrt.runtime._core import Ring, host_device
from vdmrt.runtime.cache.lane_cache import LaneCache
from vdmrt.runtime.cache.undo_log import UndoLog
from vdmrt.runtime.cache.window import make_window

Array = npt.NDArray[np.float32]
POLICY = CachePolicy(sinks=2, window=5)


@pytest.fixture(params=list(CacheLayout))
def geometry(request: pytest.FixtureRequest, tiny_bundle: Path) -> Geometry:
    """7 slots of which 2 are sinks, chunks of 3."""
    g = open_bundle(tiny_bundle).manifest.geometry
    return replace(g, layout=request.param, policy=POLICY, positions=PositionScheme("none", 0))


@pytest.fixture
def cache(geometry: Geometry, tiny_bundle: Path) -> Iterator[LaneCache]:
    graphs = open_bundle(tiny_bundle).graphs(FP32)
    made = LaneCache(host_device(), geometry, graphs)
    yield made
    made.close()


def stage_chunk(cache: LaneCache, geometry: Geometry, first: int, count: int) -> None:
    """Write the number of each latent frame into its columns of the staging buffer, as a fill does."""
    staged = cache._staging.view()
    frames = np.arange(first, first + geometry.chunk_frames)
    staged[..., :] = np.repeat(frames, geometry.slot_elements)


def frames_of(cache: LaneCache, geometry: Geometry, request: int) -> list[int]:
    """Return the latent frame that each slot of a request holds; all of its elements must agree."""
    slots = cache.view(request).reshape(-1, geometry.slots, geometry.slot_elements)
    held = slots[0, :, 0]
    assert (slots == held[:, None]).all()
    return [int(frame) for frame in held]


def fill(cache: LaneCache, geometry: Geometry, ring: Ring, count: int) -> None:
    stage_chunk(cache, geometry, ring.written, count)
    cache.scatter(1, ring, count)
    ring.advance(count)


def test_frames_go_to_their_slots_in_either_layout_and_sinks_stay(cache: LaneCache, geometry: Geometry) -> None:
    ring = Ring(geometry.slots, sinks=geometry.policy.sinks)
    for count in (1, 3, 3, 3, 2):
        fill(cache, geometry, ring, count)

    assert frames_of(cache, geometry, 1) == [ring.frame(slot) for slot in range(7)] == [0, 1, 7, 8, 9, 10, 11]
    assert not cache.view(0).any()


def test_fills_are_taken_back_around_the_sinks(cache: LaneCache, geometry: Geometry) -> None:
    ring = Ring(geometry.slots, sinks=geometry.policy.sinks)
    undo = UndoLog(cache, 1, ring, 2)
    fill(cache, geometry, ring, 1)
    before = []
    for chunk in range(4):
        before.append(frames_of(cache, geometry, 1))
        undo.save(ring, 3, chunk)
        fill(cache, geometry, ring, 3)

    ring, chunks = undo.undo(2)

    assert frames_of(cache, geometry, 1) == before[2]
    assert (ring.written, ring.sinks, chunks) == (7, 2, 2)
    undo.close()


def test_only_visible_slots_are_written_back(cache: LaneCache, geometry: Geometry) -> None:
    kept = np.random.default_rng(0).standard_normal(cache.read(1).shape).astype(np.float32)

    cache.write(1, 3, kept, None)

    assert kept.shape[2:] == geometry.cache_shape(geometry.rows_per_request, geometry.slots)
    slots = cache.read(1).reshape(*kept.shape[:4], geometry.slots, -1)
    assert np.array_equal(slots[..., :3, :], kept.reshape(slots.shape)[..., :3, :]) and not slots[..., 3:, :].any()


def test_tensors_are_found_by_role_whatever_their_names(geometry: Geometry, tiny_bundle: Path) -> None:
    graphs = open_bundle(tiny_bundle).graphs(FP32)
    cache = LaneCache(host_device(), geometry, {stage: renamed(graph) for stage, graph in graphs.items()})

    fill_addresses, denoise_addresses = cache.fill_addresses(0, False), cache.denoise_addresses()

    wanted = graphs[Stage.FILL].with_role(Role.PAST_KEY, Role.PRESENT_VALUE, Role.CONTEXT_KEY)
    assert {f"x{spec.name}" for spec in wanted} < fill_addresses.keys()
    both = fill_addresses.keys() & denoise_addresses.keys()
    assert both and all(fill_addresses[name] == denoise_addresses[name] for name in both)
    assert len({*fill_addresses.values()}) == len(fill_addresses)
    cache.close()


def renamed(graph: Graph) -> Graph:
    specs = [tuple(replace(spec, name=f"x{spec.name}") for spec in side) for side in (graph.inputs, graph.outputs)]
    return replace(graph, inputs=specs[0], outputs=specs[1])


def test_a_model_without_a_temporal_table_reads_no_positions(geometry: Geometry) -> None:
    window = make_window(geometry, Ring(7, sinks=2, written=4), 3)

    assert window.tensors.keys() == {Role.SLOT_VALID}
    assert window.tensors[Role.SLOT_VALID].tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_rope_counts_sinks_and_window_without_a_gap(geometry: Geometry) -> None:
    rope = replace(geometry, positions=PositionScheme("rope", 12))

    keys = make_window(rope, Ring(7, sinks=2, written=12), 3).tensors[Role.KEY_POSITIONS]

    # The slots hold frames 0, 1, 7, 8, 9, 10, 11: 2 to 6 are evicted.
    assert keys.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
