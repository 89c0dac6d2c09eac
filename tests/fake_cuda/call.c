/* Refusals, failure injection, and the log. */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "machine.h"
#include "stream.h"
#include "text.h"

#define MAX_LOGGED ((size_t)1 << 20)
#define MAX_NAMES  128

typedef struct record {
    const char *name;
    CUresult code;
    call_copy kind;
    size_t nbytes;
    uintptr_t stream;
    bool captured;
    bool pageable;
    bool injected;
} record;

typedef struct count {
    const char *name;
    uint64_t calls;
} count;

static struct {
    char name[64]; /* "" is any */
    uint64_t calls_left;
    CUresult code;
    bool sticky;
    const char *hit;
} failure;

static struct {
    record *records;
    size_t length;
    size_t capacity;
    count counts[MAX_NAMES];
    size_t count_length;
    fake_cuda_moved moved;
} history;

static _Thread_local record running;
static _Thread_local bool in_host_function;

static CUresult
inject(unsigned traits)
{
    if (failure.hit != NULL && failure.sticky && !(traits & CALL_OUTLIVES_FAILURE)) {
        return failure.code;
    }
    bool meant = failure.name[0] == '\0' || strcmp(failure.name, running.name) == 0;
    if (!meant || failure.calls_left == 0 || --failure.calls_left > 0) {
        return CUDA_SUCCESS;
    }
    failure.hit = running.name;
    return failure.code;
}

static CUresult
refuse(unsigned traits)
{
    if (in_host_function) {
        machine_violation("a host function must not call the driver");
        return CUDA_ERROR_NOT_PERMITTED;
    }
    if (!the_machine.initialized && !(traits & CALL_WITHOUT_INIT)) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    if (traits & CALL_NEEDS_CONTEXT) {
        CUresult code = context_check();
        if (code != CUDA_SUCCESS) {
            return code;
        }
    }
    if (traits & CALL_UNSAFE_IN_CAPTURE && stream_break_captures_of_thread()) {
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult
call_begin(const char *name, unsigned traits)
{
    pthread_mutex_lock(&the_machine.lock);
    running = (record){.name = name};
    CUresult code = the_machine.enabled ? inject(traits) : CUDA_SUCCESS;
    running.injected = code != CUDA_SUCCESS;
    return running.injected ? code : refuse(traits);
}

static void
count_call(const char *name)
{
    for (size_t index = 0; index < history.count_length; index++) {
        if (history.counts[index].name == name || strcmp(history.counts[index].name, name) == 0) {
            history.counts[index].calls++;
            return;
        }
    }
    if (history.count_length < MAX_NAMES) {
        history.counts[history.count_length++] = (count){.name = name, .calls = 1};
    }
}

static void
log_call(void)
{
    if (history.length == history.capacity) {
        size_t capacity = 2 * history.capacity + 256;
        record *grown = capacity > MAX_LOGGED ? NULL : realloc(history.records, capacity * sizeof *grown);
        if (grown == NULL) {
            return;
        }
        history.records = grown;
        history.capacity = capacity;
    }
    history.records[history.length++] = running;
}

CUresult
call_end(CUresult code)
{
    if (the_machine.enabled) {
        running.code = code;
        count_call(running.name);
        log_call();
    }
    pthread_mutex_unlock(&the_machine.lock);
    return code;
}

const char *
call_name(void)
{
    return running.name == NULL ? "no call" : running.name;
}

bool
call_was_injected(void)
{
    return running.injected;
}

void
call_log_copy(call_copy kind, size_t nbytes, bool pageable)
{
    running.kind = kind;
    running.nbytes = nbytes;
    running.pageable = pageable;
}

void
call_log_stream(uintptr_t handle, bool captured)
{
    running.stream = handle;
    running.captured = captured;
}

void
call_count_moved(call_copy kind, bool by_graph, size_t nbytes)
{
    fake_cuda_moved *moved = &history.moved;
    uint64_t *const counters[] = {
        NULL,           moved->host_to_device, moved->device_to_host, moved->device_to_device,
        moved->three_d, moved->filled};
    if (counters[kind] != NULL) {
        counters[kind][by_graph] += nbytes;
    }
}

void
call_host_function(CUhostFn function, void *data)
{
    record caller = running;
    in_host_function = true;
    pthread_mutex_unlock(&the_machine.lock);
    function(data);
    pthread_mutex_lock(&the_machine.lock);
    in_host_function = false;
    running = caller;
}

static void
clear_history(void)
{
    history.length = 0;
    history.count_length = 0;
    history.moved = (fake_cuda_moved){.filled = {0}};
}

void
call_reset(void)
{
    clear_history();
    memset(&failure, 0, sizeof failure);
}

void
fake_cuda_fail(const char *name, uint64_t nth, int code, int sticky)
{
    pthread_mutex_lock(&the_machine.lock);
    memset(&failure, 0, sizeof failure);
    snprintf(failure.name, sizeof failure.name, "%s", name == NULL ? "" : name);
    failure.calls_left = nth;
    failure.code = (CUresult)code;
    failure.sticky = sticky != 0;
    pthread_mutex_unlock(&the_machine.lock);
}

size_t
fake_cuda_failed(char *text, size_t size)
{
    pthread_mutex_lock(&the_machine.lock);
    text_writer writer = {.text = text, .size = size};
    text_add(&writer, "%s", failure.hit == NULL ? "" : failure.hit);
    pthread_mutex_unlock(&the_machine.lock);
    return writer.length;
}

static void
write_record(text_writer *writer, const record *written)
{
    static const char *const kinds[] = {"", "HtoD", "DtoH", "DtoD", "3D", "memset"};
    text_add(writer, "%s\t%d\t%s\t%zu\t%zu\t%s%s%s\n", written->name, (int)written->code,
             kinds[written->kind], written->nbytes, (size_t)written->stream, written->captured ? "c" : "",
             written->pageable ? "p" : "", written->injected ? "i" : "");
}

size_t
fake_cuda_calls(char *text, size_t size)
{
    pthread_mutex_lock(&the_machine.lock);
    text_writer writer = {.text = text, .size = size};
    for (size_t index = 0; index < history.length; index++) {
        write_record(&writer, &history.records[index]);
    }
    pthread_mutex_unlock(&the_machine.lock);
    return writer.length;
}

size_t
fake_cuda_counts(char *text, size_t size)
{
    pthread_mutex_lock(&the_machine.lock);
    text_writer writer = {.text = text, .size = size};
    for (size_t index = 0; index < history.count_length; index++) {
        text_add(&writer, "%s\t%llu\n", history.counts[index].name,
                 (unsigned long long)history.counts[index].calls);
    }
    pthread_mutex_unlock(&the_machine.lock);
    return writer.length;
}

void
fake_cuda_clear_calls(void)
{
    pthread_mutex_lock(&the_machine.lock);
    clear_history();
    pthread_mutex_unlock(&the_machine.lock);
}

void
fake_cuda_bytes_moved(fake_cuda_moved *moved)
{
    pthread_mutex_lock(&the_machine.lock);
    *moved = history.moved;
    pthread_mutex_unlock(&the_machine.lock);
}
