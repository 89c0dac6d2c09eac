/* The C core without Python. Prints the checks that fail; exit status 0 if none did. */
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "normal.h"
#include "ring.h"

static int failures = 0;

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #condition);          \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

/* Vectors of Random123, tests/kat_vectors. */
static void
test_philox_gives_the_known_answers(void)
{
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint32_t words[4];
        vdmrt_normal_philox(vectors[i].counter, vectors[i].key, words);
        CHECK(memcmp(words, vectors[i].words, sizeof(words)) == 0);
    }
}

static void
test_philox_may_overwrite_its_counter(void)
{
    const uint32_t key[2] = {1, 2};
    uint32_t counter[4] = {3, 4, 5, 6};
    uint32_t words[4];
    vdmrt_normal_philox(counter, key, words);
    vdmrt_normal_philox(counter, key, counter);
    CHECK(memcmp(words, counter, sizeof(words)) == 0);
}

/* Lengths that are no multiple of a block end exactly where they should: ASan watches the heap's edge. */
static void
test_normals_stay_inside_their_array(void)
{
    const vdmrt_normal_stream stream = {
        .seed = UINT64_MAX,
        .frame = VDMRT_NORMAL_MAX_FRAME,
        .step = (uint32_t)VDMRT_NORMAL_MAX_STEP,
        .kind = VDMRT_NORMAL_KIND_PREFIX,
    };
    float all[32];
    vdmrt_normal_fill(&stream, 32, all);
    for (size_t count = 0; count <= 32; count++) {
        float *values = malloc(count * sizeof(float) + 1);
        if (values == NULL) {
            failures++;
            return;
        }
        vdmrt_normal_fill(&stream, count, values);
        CHECK(memcmp(values, all, count * sizeof(float)) == 0);
        free(values);
    }
}

/* 2^16 frames of 64: every value finite and below the largest that 32 bits can give. */
static void
test_normals_are_finite(void)
{
    const double largest = sqrt(-2.0 * log(0x1p-33));
    double sum = 0.0, sum_of_squares = 0.0;
    for (uint64_t frame = 0; frame < 65536; frame++) {
        const vdmrt_normal_stream stream = {.seed = 7, .frame = frame};
        float values[64];
        vdmrt_normal_fill(&stream, 64, values);
        for (int i = 0; i < 64; i++) {
            CHECK(isfinite(values[i]) && fabs((double)values[i]) <= largest + FLT_EPSILON * largest);
            sum += (double)values[i];
            sum_of_squares += (double)values[i] * (double)values[i];
        }
    }
    CHECK(fabs(sum / 4194304) < 5 / sqrt(4194304.0));
    CHECK(fabs(sum_of_squares / 4194304 - 1) < 5 * sqrt(2 / 4194304.0));
}

/* Against an array that is written slot by slot. */
static void
check_ring_against_a_plain_array(int64_t slots, int64_t sinks)
{
    enum { MOST_SLOTS = 12 };
    vdmrt_ring ring = {.slots = slots, .sinks = sinks, .written = 0};
    int64_t frames[MOST_SLOTS];
    memset(frames, 0xff, sizeof(frames));
    for (int64_t call = 0; call < 500; call++) {
        int64_t count = 1 + call * 7919 % (slots - sinks);
        int64_t planned = 0;
        vdmrt_ring_segment segments[2];
        int segment_count = vdmrt_ring_plan(&ring, count, segments);
        CHECK(segment_count == 1 || segment_count == 2);
        for (int i = 0; i < segment_count; i++) {
            CHECK(segments[i].first == planned && segments[i].length > 0);
            CHECK(segments[i].slot >= 0 && segments[i].slot + segments[i].length <= slots);
            for (int64_t j = 0; j < segments[i].length; j++) {
                frames[segments[i].slot + j] = ring.written + planned++;
            }
        }
        CHECK(planned == count);
        vdmrt_ring_advance(&ring, count);
        for (int64_t slot = 0; slot < slots; slot++) {
            CHECK(vdmrt_ring_frame(&ring, slot) == frames[slot]);
            CHECK(slot >= sinks || frames[slot] == (slot < ring.written ? slot : -1));
        }
        CHECK(vdmrt_ring_visible(&ring) == (ring.written < slots ? ring.written : slots));
    }
    vdmrt_ring_reset(&ring);
    CHECK(vdmrt_ring_visible(&ring) == 0 && vdmrt_ring_frame(&ring, 0) == -1);
}

static void
test_ring_agrees_with_a_plain_array(void)
{
    for (int64_t slots = 1; slots <= 12; slots++) {
        for (int64_t sinks = 0; sinks < slots; sinks++) {
            check_ring_against_a_plain_array(slots, sinks);
        }
    }
}

static void
test_memory_is_zero_and_aligned(void)
{
    vdmrt_device host = vdmrt_device_host();
    for (size_t nbytes = 1; nbytes < 300; nbytes++) {
        uintptr_t address;
        CHECK(vdmrt_device_allocate(host, nbytes, &address) == VDMRT_OK);
        CHECK(address % VDMRT_DEVICE_ALIGNMENT == 0);
        unsigned char *bytes = (unsigned char *)address;
        for (size_t i = 0; i < nbytes; i++) {
            CHECK(bytes[i] == 0);
        }
        memset(bytes, 0xff, nbytes); /* dirt for the next one to find */
        CHECK(vdmrt_device_release(host, address) == VDMRT_OK);
    }
    vdmrt_device_destroy(host);
}

static void
test_too_much_memory_is_a_status(void)
{
    vdmrt_device host = vdmrt_device_host();
    const size_t too_much[] = {SIZE_MAX, SIZE_MAX - VDMRT_DEVICE_ALIGNMENT, SIZE_MAX / 2};
    for (size_t i = 0; i < sizeof(too_much) / sizeof(too_much[0]); i++) {
        uintptr_t address = 1;
        CHECK(vdmrt_device_allocate(host, too_much[i], &address) == VDMRT_ERROR_MEMORY);
        CHECK(address == 0);
        CHECK(vdmrt_device_release(host, address) == VDMRT_OK);
    }
}

/* Blocks of exactly the bytes that the copy may touch, so that ASan sees one byte too many. */
static void
test_copy_touches_what_it_should(size_t width, size_t height, size_t depth, size_t spare)
{
    vdmrt_device host = vdmrt_device_host();
    const vdmrt_extent extent = {.width = width, .height = height, .depth = depth};
    vdmrt_planes to = {.pitch = width + spare, .plane_height = height + spare};
    vdmrt_planes from = {.pitch = width + 2 * spare, .plane_height = height};
    size_t to_nbytes = ((depth - 1) * to.plane_height + height - 1) * to.pitch + width;
    size_t from_nbytes = ((depth - 1) * from.plane_height + height - 1) * from.pitch + width;
    unsigned char *to_bytes = calloc(to_nbytes, 1);
    unsigned char *from_bytes = malloc(from_nbytes);
    if (to_bytes == NULL || from_bytes == NULL) {
        failures++;
        goto done;
    }
    memset(from_bytes, 1, from_nbytes);
    to.address = (uintptr_t)to_bytes;
    from.address = (uintptr_t)from_bytes;

    CHECK(vdmrt_device_copy_3d(host, to, from, extent) == VDMRT_OK);
    size_t copied = 0;
    for (size_t i = 0; i < to_nbytes; i++) {
        bool inside = i % to.pitch < width && i / to.pitch % to.plane_height < height;
        CHECK(to_bytes[i] == inside);
        copied += to_bytes[i];
    }
    CHECK(copied == width * height * depth);

    CHECK(vdmrt_device_zero_2d(host, to.address, to.pitch, width, height) == VDMRT_OK);
    for (size_t i = 0; i < to_nbytes; i++) {
        CHECK(to_bytes[i] == 0 || i >= to.plane_height * to.pitch);
    }
done:
    free(from_bytes);
    free(to_bytes);
}

static void
test_copies_touch_what_they_should(void)
{
    for (size_t width = 1; width <= 4; width++) {
        for (size_t height = 1; height <= 3; height++) {
            for (size_t depth = 1; depth <= 3; depth++) {
                for (size_t spare = 0; spare <= 2; spare++) {
                    test_copy_touches_what_it_should(width, height, depth, spare);
                }
            }
        }
    }
}

static void
test_empty_copies_touch_nothing(void)
{
    vdmrt_device host = vdmrt_device_host();
    const vdmrt_planes nowhere = {.address = 64, .pitch = 8, .plane_height = 8};
    for (int i = 0; i < 3; i++) {
        const vdmrt_extent extent = {.width = i != 0, .height = i != 1, .depth = i != 2};
        CHECK(vdmrt_device_copy_3d(host, nowhere, nowhere, extent) == VDMRT_OK);
    }
    CHECK(vdmrt_device_zero_2d(host, 64, 0, 0, 9) == VDMRT_OK);
    CHECK(vdmrt_device_zero_2d(host, 64, 9, 9, 0) == VDMRT_OK);
}

static void
test_ranges_past_the_address_space_are_a_status(void)
{
    vdmrt_device host = vdmrt_device_host();
    unsigned char byte = 5;
    const vdmrt_planes one = {.address = (uintptr_t)&byte, .pitch = SIZE_MAX, .plane_height = SIZE_MAX};
    const vdmrt_extent too_big[] = {
        {.width = SIZE_MAX, .height = 1, .depth = 1},
        {.width = 1, .height = SIZE_MAX, .depth = 1},
        {.width = 1, .height = 1, .depth = SIZE_MAX},
        {.width = 1, .height = 2, .depth = 1},
        {.width = 1, .height = 1, .depth = 2},
        {.width = SIZE_MAX, .height = SIZE_MAX, .depth = SIZE_MAX},
    };
    for (size_t i = 0; i < sizeof(too_big) / sizeof(too_big[0]); i++) {
        CHECK(vdmrt_device_copy_3d(host, one, one, too_big[i]) == VDMRT_ERROR_RANGE);
    }
    CHECK(vdmrt_device_zero_2d(host, UINTPTR_MAX - 1, 4, 4, 1) == VDMRT_ERROR_RANGE);
    CHECK(vdmrt_device_zero_2d(host, one.address, SIZE_MAX / 2, 1, 4) == VDMRT_ERROR_RANGE);
    CHECK(byte == 5);
}

int
main(void)
{
    test_philox_gives_the_known_answers();
    test_philox_may_overwrite_its_counter();
    test_normals_stay_inside_their_array();
    test_normals_are_finite();
    test_ring_agrees_with_a_plain_array();
    test_memory_is_zero_and_aligned();
    test_too_much_memory_is_a_status();
    test_copies_touch_what_they_should();
    test_empty_copies_touch_nothing();
    test_ranges_past_the_address_space_are_a_status();
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
