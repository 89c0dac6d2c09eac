/* Queues of work, and the thread that happens to run them. */
#include "stream.h"

#include "call.h"
#include "context.h"
#include "event.h"

static void
clear(void *cleared)
{
    stream *dropped = cleared;
    while (dropped->head != NULL) {
        operation *gone = dropped->head;
        dropped->head = gone->next;
        operation_destroy(gone);
    }
    dropped->tail = NULL;
    if (dropped->capture != NULL) {
        capture_destroy(dropped->capture);
        dropped->capture = NULL;
    }
}

static stream *
create(int device)
{
    stream *created = object_create(OBJECT_STREAM, device, sizeof *created);
    if (created != NULL) {
        created->base.clear = clear;
    }
    return created;
}

/* The default streams' handles, made at their first use; a handle of an earlier generation is made anew. */
static uintptr_t default_streams[MACHINE_MAX_DEVICES];

static stream *
find_default(void)
{
    int device = context_device();
    stream *found = NULL;
    while ((found = object_next(OBJECT_STREAM, found)) != NULL) {
        if (found->base.handle == default_streams[device]) {
            return found;
        }
    }
    found = create(device);
    if (found != NULL) {
        default_streams[device] = found->base.handle;
        found->base.implicit = true;
    }
    return found;
}

static bool
is_default(CUstream handle)
{
    return handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD;
}

stream *
stream_find(CUstream handle)
{
    return is_default(handle) ? find_default() : object_find(OBJECT_STREAM, handle);
}

static bool
may_run(const operation *next)
{
    if (next->kind == OPERATION_LAUNCH) {
        return next->polls_left == 0;
    }
    return next->kind != OPERATION_WAIT || event_has_happened(next->event, next->recording);
}

/* Runs what may run; says whether something did. Another thread that is at it does our work too. */
static bool
run_ready(stream *run)
{
    bool ran = false;
    if (run->running) {
        return false;
    }
    run->running = true;
    while (run->head != NULL && may_run(run->head)) {
        operation_run(run->head, false);
        operation *done = run->head;
        run->head = done->next;
        run->tail = run->head == NULL ? NULL : run->tail;
        operation_destroy(done);
        ran = true;
    }
    run->running = false;
    pthread_cond_broadcast(&the_machine.progress);
    return ran;
}

static void
run_all_ready(void)
{
    bool ran = true;
    while (ran) {
        ran = false;
        stream *next = NULL;
        while ((next = object_next(OBJECT_STREAM, next)) != NULL) {
            ran = (next->head != NULL && run_ready(next)) || ran;
        }
    }
}

static CUresult
enqueue(stream *to, const operation *submitted)
{
    operation *queued = operation_copy(submitted);
    if (queued == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (to->tail == NULL) {
        to->head = queued;
    } else {
        to->tail->next = queued;
    }
    to->tail = queued;
    run_all_ready();
    return CUDA_SUCCESS;
}

CUresult
stream_submit(stream *to, const operation *submitted)
{
    call_log_stream(to->base.handle, to->capture != NULL);
    return to->capture != NULL ? capture_append(to->capture, submitted) : enqueue(to, submitted);
}

/* Follows waits to the stream whose graph or host function is in the way; NULL if nothing is. */
static stream *
find_obstacle(stream *from)
{
    while (!from->running && from->head != NULL && from->head->kind == OPERATION_WAIT &&
           !may_run(from->head)) {
        from = from->head->event->stream;
    }
    return from->running || from->head != NULL ? from : NULL;
}

static bool
is_finished(const stream *asked, const struct event *until, uint64_t recording)
{
    return until != NULL ? event_has_happened(until, recording) : asked->head == NULL && !asked->running;
}

bool
stream_poll(stream *polled, const struct event *until, uint64_t recording)
{
    stream *obstacle = is_finished(polled, until, recording) ? NULL : find_obstacle(polled);
    if (obstacle != NULL && !obstacle->running && obstacle->head->kind == OPERATION_LAUNCH) {
        obstacle->head->polls_left -= obstacle->head->polls_left > 0;
    }
    run_all_ready();
    return is_finished(polled, until, recording);
}

void
stream_finish(stream *finished, const struct event *until, uint64_t recording)
{
    while (!is_finished(finished, until, recording)) {
        stream *obstacle = find_obstacle(finished);
        if (obstacle != NULL && obstacle->running) {
            pthread_cond_wait(&the_machine.progress, &the_machine.lock);
            continue;
        }
        if (obstacle != NULL && obstacle->head->kind == OPERATION_LAUNCH) {
            obstacle->head->polls_left = 0;
        }
        run_all_ready();
    }
}

void
stream_finish_all(void)
{
    stream *next = NULL;
    while ((next = object_next(OBJECT_STREAM, next)) != NULL) {
        stream_finish(next, NULL, 0);
    }
}

CUresult
stream_finish_device(int device)
{
    CUresult code = CUDA_SUCCESS;
    stream *next = NULL;
    while ((next = object_next(OBJECT_STREAM, next)) != NULL) {
        if (next->base.device == device && next->capture != NULL) {
            capture_invalidate(next->capture);
            code = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    next = NULL;
    while (code == CUDA_SUCCESS && (next = object_next(OBJECT_STREAM, next)) != NULL) {
        if (next->base.device == device) {
            stream_finish(next, NULL, 0);
        }
    }
    return code;
}

static bool
queue_may_use(const stream *asked, int device, const unsigned char *address, size_t nbytes)
{
    bool behind_lag = false;
    for (const operation *queued = asked->head; queued != NULL; queued = queued->next) {
        behind_lag = behind_lag || (queued->kind == OPERATION_LAUNCH && queued->polls_left > 0);
        bool unknown = behind_lag && asked->base.device == device && operation_calls_host(queued);
        if (unknown || operation_touches(queued, address, nbytes)) {
            return true;
        }
    }
    return false;
}

bool
stream_may_use(int device, const unsigned char *address, size_t nbytes)
{
    const stream *next = NULL;
    while ((next = object_next(OBJECT_STREAM, next)) != NULL) {
        if (queue_may_use(next, device, address, nbytes)) {
            return true;
        }
    }
    return false;
}

bool
stream_names_event(const struct event *event)
{
    const stream *next = NULL;
    while ((next = object_next(OBJECT_STREAM, next)) != NULL) {
        for (const operation *queued = next->head; queued != NULL; queued = queued->next) {
            if (queued->event == event) {
                return true;
            }
        }
    }
    return false;
}

bool
stream_break_captures_of_thread(void)
{
    bool broken = false;
    stream *next = NULL;
    while ((next = object_next(OBJECT_STREAM, next)) != NULL) {
        if (next->capture != NULL && capture_binds_thread(next->capture)) {
            capture_invalidate(next->capture);
            broken = true;
        }
    }
    return broken;
}

CUresult
cuStreamCreate(CUstream *handle, unsigned int flags)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS && (handle == NULL || flags > CU_STREAM_NON_BLOCKING)) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        stream *created = create(context_device());
        code = created == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
        *handle = created == NULL ? NULL : (CUstream)created->base.handle;
        call_log_stream((uintptr_t)*handle, false);
    }
    return call_end(code);
}

static CUresult
destroy(CUstream handle)
{
    stream *gone = is_default(handle) ? NULL : object_find(OBJECT_STREAM, handle);
    if (gone == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    call_log_stream(gone->base.handle, false);
    if (gone->capture != NULL) {
        machine_violation("the stream is destroyed while it captures");
    }
    if (gone->head != NULL && !gone->running) {
        machine_violation("the stream is destroyed with work in it");
    }
    stream_finish(gone, NULL, 0);
    event_forget_stream(gone);
    object_destroy(gone);
    return CUDA_SUCCESS;
}

CUresult
cuStreamDestroy_v2(CUstream handle)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT | CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        code = destroy(handle);
    } else if (call_was_injected()) {
        object_withhold(OBJECT_STREAM, handle);
    }
    return call_end(code);
}

/* Returns the stream that a call may wait for in *found, or why it may not. */
static CUresult
find_to_wait(CUstream handle, stream **found)
{
    *found = stream_find(handle);
    if (*found == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    call_log_stream((*found)->base.handle, false);
    if ((*found)->capture != NULL) {
        capture_invalidate((*found)->capture);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return stream_break_captures_of_thread() ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult
cuStreamSynchronize(CUstream handle)
{
    stream *found = NULL;
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    code = code == CUDA_SUCCESS ? find_to_wait(handle, &found) : code;
    if (code == CUDA_SUCCESS) {
        stream_finish(found, NULL, 0);
    }
    return call_end(code);
}

CUresult
cuStreamQuery(CUstream handle)
{
    stream *found = NULL;
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    code = code == CUDA_SUCCESS ? find_to_wait(handle, &found) : code;
    if (code == CUDA_SUCCESS) {
        code = stream_poll(found, NULL, 0) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    }
    return call_end(code);
}

CUresult
cuLaunchHostFunc(CUstream handle, CUhostFn function, void *data)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        stream *to = stream_find(handle);
        operation work = {.kind = OPERATION_HOST_FUNCTION, .function = function, .data = data};
        code = to == NULL         ? CUDA_ERROR_INVALID_HANDLE
               : function == NULL ? CUDA_ERROR_INVALID_VALUE
                                  : CUDA_SUCCESS;
        code = code == CUDA_SUCCESS ? stream_submit(to, &work) : code;
    }
    return call_end(code);
}
