/* Slot arithmetic of the KV ring. */
#include "ring.h"

int64_t
vdmrt_ring_visible(const vdmrt_ring *ring)
{
    return ring->written < ring->slots ? ring->written : ring->slots;
}

int
vdmrt_ring_plan(const vdmrt_ring *ring, int64_t count, vdmrt_ring_segment segments[2])
{
    int64_t window = ring->slots - ring->sinks;
    int64_t head = ring->written;
    if (head >= ring->slots) {
        head = ring->sinks + (head - ring->sinks) % window;
    }
    int64_t before_wrap = ring->slots - head;
    if (count <= before_wrap) {
        segments[0] = (vdmrt_ring_segment){.slot = head, .first = 0, .length = count};
        return 1;
    }
    segments[0] = (vdmrt_ring_segment){.slot = head, .first = 0, .length = before_wrap};
    segments[1] =
        (vdmrt_ring_segment){.slot = ring->sinks, .first = before_wrap, .length = count - before_wrap};
    return 2;
}

void
vdmrt_ring_advance(vdmrt_ring *ring, int64_t count)
{
    ring->written += count;
}

int64_t
vdmrt_ring_frame(const vdmrt_ring *ring, int64_t slot)
{
    if (slot >= vdmrt_ring_visible(ring)) {
        return -1;
    }
    if (slot < ring->sinks) {
        return slot;
    }
    int64_t window = ring->slots - ring->sinks;
    int64_t newest = ring->written - 1;
    return newest - (newest - slot) % window;
}

void
vdmrt_ring_reset(vdmrt_ring *ring)
{
    ring->written = 0;
}
