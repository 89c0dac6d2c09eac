/*
 * Streams: work in order, at once unless a lagging graph or another stream's event is in its way.
 *
 * All functions need the lock; those that run work give it up while host functions run. The default streams
 * (NULL, legacy and per-thread) are one more stream per device: their implicit order with others is not
 * modeled.
 */
#ifndef FAKE_CUDA_STREAM_H
#define FAKE_CUDA_STREAM_H

#include "graph.h"
#include "machine.h"
#include "operation.h"

typedef struct stream {
    object base;
    operation *head; /* not run yet, in order */
    operation *tail;
    bool running;     /* a thread runs the head, perhaps without the lock */
    capture *capture; /* NULL: executes */
} stream;

/* Returns the stream, or NULL after noting a violation. */
stream *stream_find(CUstream handle);

/* Adds a copy of the operation to the stream, or to the graph that it captures; logs that it did. */
CUresult stream_submit(stream *to, const operation *submitted);

/* Asks once whether the recording has happened; counts as a poll of the graph in its way. */
bool stream_poll(stream *polled, const struct event *until, uint64_t recording);

/* Runs all that must run before the recording has happened, or before the stream is idle if `until` is NULL.
 */
void stream_finish(stream *finished, const struct event *until, uint64_t recording);

/* Finishes the device's streams; CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, and no more captures, if one
 * captures. */
CUresult stream_finish_device(int device);

void stream_finish_all(void);

/* Says whether queued work names the range; a host function behind a lagging graph may use all of its device.
 */
bool stream_may_use(int device, const unsigned char *address, size_t nbytes);

/* Says whether queued work names the event. */
bool stream_names_event(const struct event *event);

/* Invalidates the captures that forbid unsafe calls to this thread; says whether there was one. */
bool stream_break_captures_of_thread(void);

#endif
