/* Events, and the driver calls about them. */
#include "event.h"

#include <time.h>

#include "call.h"
#include "context.h"
#include "stream.h"

static int64_t
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

bool
event_has_happened(const event *asked, uint64_t recording)
{
    return asked->happened >= recording;
}

void
event_complete(event *reached, uint64_t recording)
{
    reached->happened = recording > reached->happened ? recording : reached->happened;
    reached->nanoseconds = now();
}

void
event_forget_stream(const struct stream *gone)
{
    event *next = NULL;
    while ((next = object_next(OBJECT_EVENT, next)) != NULL) {
        next->stream = next->stream == gone ? NULL : next->stream;
    }
}

CUresult
cuEventCreate(CUevent *handle, unsigned int flags)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS &&
        (handle == NULL || flags > (CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING))) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        event *created = object_create(OBJECT_EVENT, context_device(), sizeof *created);
        code = created == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
        *handle = created == NULL ? NULL : (CUevent)created->base.handle;
        if (created != NULL) {
            created->times = !(flags & CU_EVENT_DISABLE_TIMING);
        }
    }
    return call_end(code);
}

static CUresult
destroy(CUevent handle)
{
    event *gone = object_find(OBJECT_EVENT, handle);
    if (gone == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (stream_names_event(gone)) {
        machine_violation("the event is destroyed while a stream may still use it");
        stream_finish_all();
    }
    object_destroy(gone);
    return CUDA_SUCCESS;
}

CUresult
cuEventDestroy_v2(CUevent handle)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT | CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        code = destroy(handle);
    } else if (call_was_injected()) {
        object_withhold(OBJECT_EVENT, handle);
    }
    return call_end(code);
}

/* While the stream captures, recording is no node: it marks a point of the capture. */
static CUresult
record(event *recorded, stream *on)
{
    if (recorded->base.device != on->base.device) {
        machine_violation("the event and the stream are of two devices");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (on->capture != NULL) {
        call_log_stream(on->base.handle, true);
        recorded->capture = capture_serial(on->capture);
        return capture_check(on->capture);
    }
    recorded->capture = 0;
    recorded->stream = on;
    recorded->recorded++;
    operation work = {.kind = OPERATION_RECORD, .event = recorded, .recording = recorded->recorded};
    return stream_submit(on, &work);
}

CUresult
cuEventRecord(CUevent handle, CUstream on)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        event *recorded = object_find(OBJECT_EVENT, handle);
        stream *found = stream_find(on);
        code = recorded == NULL || found == NULL ? CUDA_ERROR_INVALID_HANDLE : record(recorded, found);
    }
    return call_end(code);
}

/* A capturing stream may wait only for its own capture: what would fork or join a capture is not modeled. */
static CUresult
wait_for(stream *waiting, event *awaited)
{
    call_log_stream(waiting->base.handle, waiting->capture != NULL);
    if (waiting->capture != NULL) {
        if (awaited->capture == capture_serial(waiting->capture)) {
            return capture_check(waiting->capture);
        }
        capture_invalidate(waiting->capture);
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (awaited->capture != 0) {
        machine_violation("the event was recorded in a capture; to fork a capture is not modeled");
        return CUDA_ERROR_CAPTURED_EVENT;
    }
    if (event_has_happened(awaited, awaited->recorded)) {
        return CUDA_SUCCESS; /* true of everything in the stream by the time it runs */
    }
    operation work = {.kind = OPERATION_WAIT, .event = awaited, .recording = awaited->recorded};
    return stream_submit(waiting, &work);
}

CUresult
cuStreamWaitEvent(CUstream handle, CUevent for_event, unsigned int flags)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS && flags != 0) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        event *awaited = object_find(OBJECT_EVENT, for_event);
        stream *waiting = stream_find(handle);
        code = awaited == NULL || waiting == NULL ? CUDA_ERROR_INVALID_HANDLE : wait_for(waiting, awaited);
    }
    return call_end(code);
}

/* Returns the event that a call may wait for in *found, or why it may not. */
static CUresult
find_to_wait(CUevent handle, event **found)
{
    *found = object_find(OBJECT_EVENT, handle);
    if (*found == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    return (*found)->capture != 0 ? CUDA_ERROR_CAPTURED_EVENT : CUDA_SUCCESS;
}

CUresult
cuEventQuery(CUevent handle)
{
    event *asked = NULL;
    CUresult code = call_begin(__func__, CALL_UNSAFE_IN_CAPTURE);
    code = code == CUDA_SUCCESS ? find_to_wait(handle, &asked) : code;
    if (code == CUDA_SUCCESS && !event_has_happened(asked, asked->recorded)) {
        code = stream_poll(asked->stream, asked, asked->recorded) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    }
    return call_end(code);
}

CUresult
cuEventSynchronize(CUevent handle)
{
    event *asked = NULL;
    CUresult code = call_begin(__func__, CALL_UNSAFE_IN_CAPTURE);
    code = code == CUDA_SUCCESS ? find_to_wait(handle, &asked) : code;
    if (code == CUDA_SUCCESS && !event_has_happened(asked, asked->recorded)) {
        stream_finish(asked->stream, asked, asked->recorded);
    }
    return call_end(code);
}

static CUresult
elapsed(float *milliseconds, const event *start, const event *end)
{
    if (start == NULL || end == NULL || milliseconds == NULL) {
        return milliseconds == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
    }
    bool comparable = start->base.device == end->base.device && start->times && end->times;
    if (!comparable || start->recorded == 0 || end->recorded == 0 || start->capture != 0 ||
        end->capture != 0) {
        machine_violation("the events do not both time, are not both recorded, or are of two devices");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!event_has_happened(start, start->recorded) || !event_has_happened(end, end->recorded)) {
        return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = (float)((double)(end->nanoseconds - start->nanoseconds) / 1e6);
    return CUDA_SUCCESS;
}

static CUresult
elapsed_between(float *milliseconds, CUevent start, CUevent end)
{
    return elapsed(milliseconds, object_find(OBJECT_EVENT, start), object_find(OBJECT_EVENT, end));
}

CUresult
cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    return call_end(code == CUDA_SUCCESS ? elapsed_between(milliseconds, start, end) : code);
}

CUresult
cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    return call_end(code == CUDA_SUCCESS ? elapsed_between(milliseconds, start, end) : code);
}
