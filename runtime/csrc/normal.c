/* Philox4x32-10 and Box-Muller. */
#include "normal.h"

#include <math.h>
#include <string.h>

static const double TWO_PI = 6.283185307179586476925286766559;

void
vdmrt_normal_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53 * c0;
        uint64_t product1 = (uint64_t)0xCD9E8D57 * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)product0;
        k0 += 0x9E3779B9; /* golden ratio */
        k1 += 0xBB67AE85; /* sqrt(3) - 1 */
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

static double
uniform_from_word(uint32_t word)
{
    return (word + 0.5) * 0x1p-32;
}

static void
normals_from_words(const uint32_t words[4], float normals[4])
{
    for (int pair = 0; pair < 4; pair += 2) {
        double radius = sqrt(-2.0 * log(uniform_from_word(words[pair])));
        double angle = TWO_PI * uniform_from_word(words[pair + 1]);
        normals[pair] = (float)(radius * cos(angle));
        normals[pair + 1] = (float)(radius * sin(angle));
    }
}

void
vdmrt_normal_fill(const vdmrt_normal_stream *stream, size_t count, float *values)
{
    const uint32_t key[2] = {(uint32_t)stream->seed, (uint32_t)(stream->seed >> 32)};
    uint32_t counter[4] = {
        0,
        (uint32_t)stream->frame,
        (uint32_t)(stream->frame >> 32) | stream->step << 16,
        (uint32_t)stream->kind,
    };
    uint32_t words[4];

    for (size_t done = 0; done < count; done += 4, counter[0]++) {
        float normals[4];
        size_t wanted = count - done < 4 ? count - done : 4;
        vdmrt_normal_philox(counter, key, words);
        normals_from_words(words, normals);
        memcpy(values + done, normals, wanted * sizeof(float));
    }
}
