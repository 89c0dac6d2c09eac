/* The loop over denoising steps, and the events it marks them with. */
#include "replay.h"

#include <stdlib.h>
#include <time.h>

#define POLL_NS  50000000 /* between looks for signals: what a person at the keyboard does not notice */
#define SPIN_NS  100000   /* a short step is over before a sleeping thread would wake */
#define SLEEP_NS 20000    /* the next step is queued already, so oversleeping costs nothing */

vdmrt_status
vdmrt_events_create(vdmrt_device device, size_t count, vdmrt_events *events)
{
    *events = (vdmrt_events){.device = device, .count = 0, .events = calloc(count, sizeof *events->events)};
    if (events->events == NULL) {
        return VDMRT_ERROR_MEMORY;
    }
    while (events->count < count) {
        vdmrt_status status = device.table->create_event(device.context, &events->events[events->count]);
        /* It may exist although something after its making failed. */
        events->count += events->events[events->count] != 0;
        if (status != VDMRT_OK) {
            (void)vdmrt_events_destroy(events);
            return status;
        }
    }
    return VDMRT_OK;
}

vdmrt_status
vdmrt_events_destroy(vdmrt_events *events)
{
    vdmrt_device device = events->device;
    vdmrt_status first = events->count == 0 ? VDMRT_OK : vdmrt_device_synchronize(device);
    for (size_t i = 0; i < events->count; i++) {
        vdmrt_status status = device.table->destroy_event(device.context, events->events[i]);
        first = first == VDMRT_OK ? status : first;
    }
    free(events->events);
    events->events = NULL;
    events->count = 0;
    return first;
}

static int64_t
now_ns(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
rest(int64_t waited_ns)
{
    if (waited_ns > SPIN_NS) {
        const struct timespec pause = {.tv_sec = 0, .tv_nsec = SLEEP_NS};
        (void)nanosleep(&pause, NULL);
    }
}

/* Who wants to know that the host waits, and when they were last asked. */
typedef struct vdmrt_watch {
    vdmrt_device device;
    vdmrt_replay_poll poll;
    void *context;
    int64_t polled_ns;
    bool is_inside; /* of the device's enter and leave */
} vdmrt_watch;

static vdmrt_status
enter(vdmrt_watch *watch)
{
    vdmrt_status status = watch->device.table->enter(watch->device.context);
    watch->polled_ns = now_ns();
    watch->is_inside = status == VDMRT_OK;
    return status;
}

static vdmrt_status
leave(vdmrt_watch *watch)
{
    bool was_inside = watch->is_inside;
    watch->is_inside = false;
    return was_inside ? watch->device.table->leave(watch->device.context) : VDMRT_OK;
}

/* Asks from outside, because Python may use the driver meanwhile. */
static vdmrt_status
ask(vdmrt_watch *watch, size_t steps_passed)
{
    vdmrt_status left = leave(watch);
    if (!watch->poll(watch->context, steps_passed)) {
        return VDMRT_ERROR_CANCELLED;
    }
    return left != VDMRT_OK ? left : enter(watch);
}

static vdmrt_status
wait_for(const vdmrt_events *events, size_t event, size_t steps_passed, vdmrt_watch *watch)
{
    vdmrt_device device = events->device;
    int64_t started = now_ns();
    bool passed = false;
    for (;;) {
        vdmrt_status status = device.table->query(device.context, events->events[event], &passed);
        int64_t now = now_ns();
        if (status == VDMRT_OK && now - watch->polled_ns >= POLL_NS) {
            status = ask(watch, steps_passed);
        }
        if (status != VDMRT_OK || passed) {
            return status;
        }
        rest(now - started);
    }
}

vdmrt_status
vdmrt_events_wait(const vdmrt_events *events, size_t event, vdmrt_replay_poll poll, void *poll_context)
{
    vdmrt_watch watch = {.device = events->device, .poll = poll, .context = poll_context};
    vdmrt_status status = enter(&watch);
    status = status == VDMRT_OK ? wait_for(events, event, 0, &watch) : status;
    vdmrt_status left = leave(&watch);
    return status != VDMRT_OK ? status : left;
}

static vdmrt_status
launch(const vdmrt_replay *replay, size_t step)
{
    vdmrt_device device = replay->events->device;
    int64_t started = now_ns();
    vdmrt_status status =
        device.table->launch(device.context, replay->graph, replay->events->events[step + 1]);
    replay->enqueue_us[step] = (double)(now_ns() - started) * 1e-3;
    return status;
}

/* Waits until `passed` steps are done, then reports each to the listener. */
static vdmrt_status
await_step(const vdmrt_replay *replay, size_t passed, vdmrt_watch *watch)
{
    vdmrt_status status = wait_for(replay->events, passed, passed - 1, watch);
    if (status == VDMRT_OK && replay->wants_every_step) {
        return ask(watch, passed);
    }
    return status;
}

static vdmrt_status
run_steps(const vdmrt_replay *replay, vdmrt_watch *watch)
{
    vdmrt_status status = VDMRT_OK;
    size_t launched = 0, passed = 0;
    while (status == VDMRT_OK && passed < replay->steps) {
        if (launched < replay->steps && launched - passed < VDMRT_REPLAY_IN_FLIGHT) {
            status = launch(replay, launched++);
        } else {
            status = await_step(replay, ++passed, watch);
        }
    }
    return status;
}

vdmrt_status
vdmrt_replay_run(const vdmrt_replay *replay)
{
    vdmrt_device device = replay->events->device;
    vdmrt_watch watch = {.device = device, .poll = replay->poll, .context = replay->poll_context};
    vdmrt_status status = device.table->record(device.context, replay->events->events[0]);
    if (status == VDMRT_OK) {
        status = enter(&watch);
    }
    if (status == VDMRT_OK) {
        status = run_steps(replay, &watch);
    }
    vdmrt_status left = leave(&watch);
    status = status != VDMRT_OK ? status : left;
    if (status != VDMRT_OK) {
        (void)vdmrt_device_synchronize(device);
    }
    return status;
}
