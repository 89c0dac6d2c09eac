/* Formatted text into a buffer of the caller. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>

void
text_add(text_writer *writer, const char *format, ...)
{
    size_t left = writer->length < writer->size ? writer->size - writer->length : 0;
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(left > 0 ? writer->text + writer->length : NULL, left, format, arguments);
    va_end(arguments);
    writer->length += added > 0 ? (size_t)added : 0;
}
