/* Events: the last point of a stream that was recorded, and when it was reached. All functions need the lock.
 */
#ifndef FAKE_CUDA_EVENT_H
#define FAKE_CUDA_EVENT_H

#include "machine.h"

struct stream;

typedef struct event {
    object base;
    bool times;
    struct stream *stream; /* of the last recording; NULL: never recorded, or the stream is gone */
    uint64_t recorded;     /* recordings asked for */
    uint64_t happened;     /* recordings reached */
    int64_t nanoseconds;   /* of the last one reached, monotonic */
    uint64_t capture;      /* the capture that holds the last recording; 0: none */
} event;

/* Says whether the recording was reached. */
bool event_has_happened(const event *asked, uint64_t recording);

/* Notes that the recording is reached now. */
void event_complete(event *reached, uint64_t recording);

/* Lets go of a stream that is about to be destroyed. */
void event_forget_stream(const struct stream *gone);

#endif
