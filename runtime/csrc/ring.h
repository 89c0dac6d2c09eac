/*
 * Mapping of latent frames to slots of the KV cache, and placement of the next chunk.
 *
 * The first `sinks` frames are pinned: frame f is in slot f for f < sinks, else in slot
 * sinks + (f - sinks) mod (slots - sinks). A new frame overwrites the oldest one that is not pinned, and no slot
 * is ever moved. Counts are in latent frames. A ring is three numbers that the caller stores; it owns no memory
 * and cannot fail. Not thread-safe.
 */
#ifndef VDMRT_RING_H
#define VDMRT_RING_H

#include <stdint.h>

/* Bounds `slots`, so that `written` could only overflow after 2^47 chunks. */
#define VDMRT_RING_MAX_SLOTS 65536

/* Bounds the position that a ring may begin at: that of the random numbers, see normal.h. */
#define VDMRT_RING_MAX_WRITTEN (((int64_t)1 << 48) - 1)

typedef struct vdmrt_ring {
    int64_t slots;   /* capacity, 1 <= slots <= VDMRT_RING_MAX_SLOTS */
    int64_t sinks;   /* pinned frames, 0 <= sinks < slots */
    int64_t written; /* frames since the last reset; the absolute number of the next one */
} vdmrt_ring;

/* Frames first .. first + length - 1 of a chunk go to slots slot .. slot + length - 1. */
typedef struct vdmrt_ring_segment {
    int64_t slot;
    int64_t first;
    int64_t length;
} vdmrt_ring_segment;

/* Returns how many slots hold a frame; these are the slots 0 .. visible - 1. */
int64_t vdmrt_ring_visible(const vdmrt_ring *ring);

/*
 * Plans where the next `count` frames go, 1 <= count <= slots - sinks, and leaves the ring as it is.
 * Fills the first one or two of `segments`, in the chunk's order, and returns how many: frames that begin among the
 * sinks end before the last slot and are one segment.
 */
int vdmrt_ring_plan(const vdmrt_ring *ring, int64_t count, vdmrt_ring_segment segments[2]);

/* Counts `count` frames as written, 1 <= count <= slots - sinks. */
void vdmrt_ring_advance(vdmrt_ring *ring, int64_t count);

/* Returns the absolute number of the frame in `slot`, 0 <= slot < slots, or -1 if the slot is empty. */
int64_t vdmrt_ring_frame(const vdmrt_ring *ring, int64_t slot);

/* Forgets all frames. */
void vdmrt_ring_reset(vdmrt_ring *ring);

#endif
