/* How work is done, and what it touches. */
#include "operation.h"

#include <stdlib.h>
#include <string.h>

#include "event.h"
#include "graph.h"

operation *
operation_copy(const operation *copied)
{
    operation *copy = malloc(sizeof *copy);
    if (copy != NULL) {
        *copy = *copied;
        copy->next = NULL;
        if (copy->exec != NULL) {
            exec_retain(copy->exec);
        }
    }
    return copy;
}

void
operation_destroy(operation *destroyed)
{
    if (destroyed->exec != NULL) {
        exec_release(destroyed->exec);
    }
    free(destroyed);
}

static unsigned char *
row_of(const plane *side, size_t slice, size_t row)
{
    return side->address + slice * side->slice_pitch + row * side->row_pitch;
}

static void
move(const operation *run)
{
    for (size_t slice = 0; slice < run->slices; slice++) {
        for (size_t row = 0; row < run->rows; row++) {
            unsigned char *to = row_of(&run->to, slice, row);
            if (run->kind == OPERATION_FILL) {
                memset(to, run->value, run->width);
            } else {
                memmove(to, row_of(&run->from, slice, row), run->width);
            }
        }
    }
}

/* Returns the bytes from the first to the last that a side spans, gaps included. */
static size_t
span(const operation *measured, const plane *side)
{
    if (measured->width == 0 || measured->rows == 0 || measured->slices == 0) {
        return 0;
    }
    return (measured->slices - 1) * side->slice_pitch + (measured->rows - 1) * side->row_pitch +
           measured->width;
}

bool
operation_check(const operation *checked)
{
    bool fine = memory_check(checked->to.address, span(checked, &checked->to), checked->to.side);
    if (checked->kind == OPERATION_COPY) {
        fine = memory_check(checked->from.address, span(checked, &checked->from), checked->from.side) && fine;
    }
    return fine;
}

void
operation_run(const operation *run, bool by_graph)
{
    switch (run->kind) {
    case OPERATION_COPY:
    case OPERATION_FILL:
        if (operation_check(run)) { /* again: what it names may be gone since it was submitted */
            move(run);
            call_count_moved(run->moved, by_graph, run->width * run->rows * run->slices);
        }
        break;
    case OPERATION_HOST_FUNCTION:
        call_host_function(run->function, run->data);
        break;
    case OPERATION_RECORD:
        event_complete(run->event, run->recording);
        break;
    case OPERATION_WAIT:
        break; /* the stream got here because the event had happened */
    case OPERATION_LAUNCH:
        exec_run(run->exec);
        break;
    }
}

static bool
overlaps(const operation *asked, const plane *side, const unsigned char *address, size_t nbytes)
{
    return side->address < address + nbytes && address < side->address + span(asked, side);
}

bool
operation_touches(const operation *asked, const unsigned char *address, size_t nbytes)
{
    switch (asked->kind) {
    case OPERATION_COPY:
        return overlaps(asked, &asked->to, address, nbytes) || overlaps(asked, &asked->from, address, nbytes);
    case OPERATION_FILL:
        return overlaps(asked, &asked->to, address, nbytes);
    case OPERATION_LAUNCH:
        return exec_touches(asked->exec, address, nbytes);
    default:
        return false;
    }
}

bool
operation_calls_host(const operation *asked)
{
    if (asked->kind == OPERATION_LAUNCH) {
        return exec_calls_host(asked->exec);
    }
    return asked->kind == OPERATION_HOST_FUNCTION;
}
