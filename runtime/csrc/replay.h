/*
 * Replays a captured graph step after step, with at most VDMRT_REPLAY_IN_FLIGHT steps enqueued and not
 * passed.
 *
 * Two are enough for the device never to wait for the host, and few enough that cancelling takes two steps at
 * most.
 */
#ifndef VDMRT_REPLAY_H
#define VDMRT_REPLAY_H

#include "device.h"

#define VDMRT_REPLAY_IN_FLIGHT 2

/* Marks in the order of a device's work: created once, recorded again and again. */
typedef struct vdmrt_events {
    vdmrt_device device;
    size_t count;
    uintptr_t *events; /* owned */
} vdmrt_events;

/* Stores `count` > 0 events of a device; on failure there are none. */
vdmrt_status vdmrt_events_create(vdmrt_device device, size_t count, vdmrt_events *events);

/* Undoes all of them, whatever fails; returns the first failure. */
vdmrt_status vdmrt_events_destroy(vdmrt_events *events);

/*
 * Called while the host waits: about every 50 ms, and after each step that has passed if `wants_every_step`.
 * Returns false to stop.
 */
typedef bool (*vdmrt_replay_poll)(void *context, size_t steps_passed);

typedef struct vdmrt_replay {
    uintptr_t graph; /* as vdmrt_device_table.end_capture gave it */
    const vdmrt_events
        *events; /* more than `steps`; event 0 is recorded before the first step, event i after the i-th */
    size_t steps;
    double *enqueue_us; /* (out) [steps] host time of each launch */
    vdmrt_replay_poll poll;
    void *poll_context;
    bool wants_every_step;
} vdmrt_replay;

/* Waits until an event has passed; VDMRT_ERROR_CANCELLED where `poll`, asked every 50 ms, said so. */
vdmrt_status vdmrt_events_wait(const vdmrt_events *events, size_t event, vdmrt_replay_poll poll,
                               void *poll_context);

/*
 * Runs all steps and waits for the last one. After a failure or cancellation nothing is in flight any more.
 */
vdmrt_status vdmrt_replay_run(const vdmrt_replay *replay);

#endif
