/*
 * Counter-based random normals: the value of an element depends only on its position.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). One
 * call of the generator makes the four normals of one element block. Its inputs, in 32-bit words:
 *
 *     key[0]      seed, low half
 *     key[1]      seed, high half
 *     counter[0]  element block: index of the element in its latent frame, divided by four
 *     counter[1]  latent frame, bits 0 to 31
 *     counter[2]  latent frame, bits 32 to 47, below; denoising step, 16 bits, above
 *     counter[3]  kind
 *
 * Words 0 and 1 of the output make elements 0 and 1 of the block by Box-Muller, words 2 and 3 make elements 2
 * and 3: radius sqrt(-2 log u) from the first word, angle 2 pi u from the second, cosine first. A word x
 * becomes u = (x + 1/2) / 2^32, which is exact in double and strictly between 0 and 1, so the logarithm
 * is finite. All is computed in double and rounded once to float: another libm may differ in the last bit of
 * a float, rarely.
 *
 * No state, no globals: thread-safe.
 */
#ifndef VDMRT_NORMAL_H
#define VDMRT_NORMAL_H

#include <stddef.h>
#include <stdint.h>

#define VDMRT_NORMAL_MAX_COUNT (((uint64_t)1 << 34) - 1) /* so that an element block fits its word */
#define VDMRT_NORMAL_MAX_FRAME (((uint64_t)1 << 48) - 1)
#define VDMRT_NORMAL_MAX_STEP  (((uint64_t)1 << 16) - 1)

/* What the noise is for. The numbers are part of every reproducible result: never renumber them. */
typedef enum vdmrt_normal_kind {
    VDMRT_NORMAL_KIND_INITIAL = 0, /* the latent that denoising starts from */
    VDMRT_NORMAL_KIND_STEP = 1,    /* fresh noise of one denoising step */
    VDMRT_NORMAL_KIND_PREFIX = 2,  /* noise on the latent frames that were given */
} vdmrt_normal_kind;

/* The noise of one latent frame for one purpose: an endless row of normals. */
typedef struct vdmrt_normal_stream {
    uint64_t seed;
    uint64_t frame; /* absolute number of the latent frame, <= VDMRT_NORMAL_MAX_FRAME */
    uint32_t step;  /* denoising step, <= VDMRT_NORMAL_MAX_STEP */
    vdmrt_normal_kind kind;
} vdmrt_normal_stream;

/* Writes the four words of Philox4x32-10 for `counter` and `key` to `words`, which may be `counter`. */
void vdmrt_normal_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);

/* Writes the first `count` normals of `stream`, at most VDMRT_NORMAL_MAX_COUNT, to the caller's `values`. */
void vdmrt_normal_fill(const vdmrt_normal_stream *stream, size_t count, float *values);

#endif
