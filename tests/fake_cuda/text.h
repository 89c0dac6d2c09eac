/* Text that grows in a buffer of the caller, whose full length is known even where it does not fit. */
#ifndef FAKE_CUDA_TEXT_H
#define FAKE_CUDA_TEXT_H

#include <stddef.h>

typedef struct text_writer {
    char *text;    /* may be NULL if size is 0 */
    size_t size;   /* bytes, the closing zero included */
    size_t length; /* of the whole text, without the zero */
} text_writer;

__attribute__((format(printf, 2, 3))) void text_add(text_writer *writer, const char *format, ...);

#endif
