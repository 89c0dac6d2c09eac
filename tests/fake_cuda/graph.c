/* Capture on one stream, instantiation, launch. */
#include "graph.h"

#include <stdlib.h>

#include "call.h"
#include "context.h"
#include "stream.h"

/* Operations, each a reference holder of its own. */
typedef struct node_list {
    operation *head;
    operation *tail;
    size_t length;
} node_list;

typedef struct graph {
    object base;
    node_list nodes;
} graph;

/* Lives as long as its handle or a launch; the object in the machine is `exec_handle`. */
struct exec {
    node_list nodes;
    uint64_t references;
};

typedef struct exec_handle {
    object base;
    exec *exec;
} exec_handle;

struct capture {
    uint64_t serial;
    CUstreamCaptureMode mode;
    const void *thread;
    bool invalidated;
    node_list nodes;
};

static _Thread_local char this_thread; /* its address tells threads apart */

static bool
append(node_list *list, const operation *node)
{
    operation *added = operation_copy(node);
    if (added == NULL) {
        return false;
    }
    if (list->tail == NULL) {
        list->head = added;
    } else {
        list->tail->next = added;
    }
    list->tail = added;
    list->length++;
    return true;
}

static void
clear(node_list *list)
{
    while (list->head != NULL) {
        operation *gone = list->head;
        list->head = gone->next;
        operation_destroy(gone);
    }
    *list = (node_list){0};
}

static bool
append_all(node_list *list, const node_list *added)
{
    for (const operation *node = added->head; node != NULL; node = node->next) {
        if (!append(list, node)) {
            clear(list);
            return false;
        }
    }
    return true;
}

static void
clear_graph(void *cleared)
{
    clear(&((graph *)cleared)->nodes);
}

static void
clear_exec(void *cleared)
{
    exec_release(((exec_handle *)cleared)->exec);
}

uint64_t
capture_serial(const capture *asked)
{
    return asked->serial;
}

CUresult
capture_check(const capture *asked)
{
    return asked->invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

CUresult
capture_append(capture *to, const operation *node)
{
    if (to->invalidated) {
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    return append(&to->nodes, node) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void
capture_invalidate(capture *broken)
{
    broken->invalidated = true;
}

bool
capture_binds_thread(const capture *asked)
{
    bool own = asked->thread == &this_thread && asked->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
    return own || asked->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

void
capture_destroy(capture *destroyed)
{
    clear(&destroyed->nodes);
    free(destroyed);
}

void
exec_retain(exec *retained)
{
    retained->references++;
}

void
exec_release(exec *released)
{
    if (--released->references == 0) {
        clear(&released->nodes);
        free(released);
    }
}

void
exec_run(const exec *run)
{
    for (const operation *node = run->nodes.head; node != NULL; node = node->next) {
        operation_run(node, true);
    }
}

bool
exec_touches(const exec *asked, const unsigned char *address, size_t nbytes)
{
    for (const operation *node = asked->nodes.head; node != NULL; node = node->next) {
        if (operation_touches(node, address, nbytes)) {
            return true;
        }
    }
    return false;
}

bool
exec_calls_host(const exec *asked)
{
    for (const operation *node = asked->nodes.head; node != NULL; node = node->next) {
        if (operation_calls_host(node)) {
            return true;
        }
    }
    return false;
}

static CUresult
begin_capture(CUstream handle, CUstreamCaptureMode mode)
{
    static uint64_t captures;
    stream *on = stream_find(handle);
    if (on == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (handle == NULL || handle == CU_STREAM_LEGACY) {
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (on->capture != NULL || (unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        machine_violation("the stream captures already, or mode %d is none", (int)mode);
        return on->capture != NULL ? CUDA_ERROR_ILLEGAL_STATE : CUDA_ERROR_INVALID_VALUE;
    }
    on->capture = malloc(sizeof *on->capture);
    if (on->capture == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *on->capture = (capture){.serial = ++captures, .mode = mode, .thread = &this_thread};
    call_log_stream(on->base.handle, false);
    return CUDA_SUCCESS;
}

CUresult
cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    return call_end(code == CUDA_SUCCESS ? begin_capture(handle, mode) : code);
}

static CUresult
create_graph(CUgraph *handle, const capture *ended, int device)
{
    graph *created = object_create(OBJECT_GRAPH, device, sizeof *created);
    if (created == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    created->base.clear = clear_graph;
    if (!append_all(&created->nodes, &ended->nodes)) {
        object_destroy(created);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *handle = (CUgraph)created->base.handle;
    return CUDA_SUCCESS;
}

/* Takes the capture off the stream into *ended, or says why not. */
static CUresult
take_capture(CUstream handle, capture **ended)
{
    stream *on = stream_find(handle);
    if (on == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    call_log_stream(on->base.handle, false);
    if (on->capture == NULL) {
        machine_violation("the stream does not capture");
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    if (on->capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && on->capture->thread != &this_thread) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    *ended = on->capture;
    on->capture = NULL;
    return CUDA_SUCCESS;
}

static CUresult
end_capture(CUstream handle, CUgraph *graph_handle)
{
    capture *ended = NULL;
    CUresult code = take_capture(handle, &ended);
    if (code != CUDA_SUCCESS) {
        return code;
    }
    code = graph_handle == NULL ? CUDA_ERROR_INVALID_VALUE : capture_check(ended);
    if (graph_handle != NULL) {
        *graph_handle = NULL;
    }
    code = code == CUDA_SUCCESS ? create_graph(graph_handle, ended, context_device()) : code;
    capture_destroy(ended);
    return code;
}

CUresult
cuStreamEndCapture(CUstream handle, CUgraph *graph_handle)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        code = end_capture(handle, graph_handle);
    } else if (call_was_injected()) {
        capture *ended = NULL; /* as in a real driver, no failure leaves the stream capturing */
        if (context_check() == CUDA_SUCCESS && take_capture(handle, &ended) == CUDA_SUCCESS) {
            capture_destroy(ended);
        }
    }
    return call_end(code);
}

CUresult
cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        const stream *asked = stream_find(handle);
        if (asked == NULL || status == NULL) {
            return call_end(asked == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE);
        }
        *status = asked->capture == NULL        ? CU_STREAM_CAPTURE_STATUS_NONE
                  : asked->capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                                : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    }
    return call_end(code);
}

/* With `nodes` NULL writes how many there are; else writes at most *count of them, NULL after the last. */
static CUresult
get_nodes(const graph *asked, CUgraphNode *nodes, size_t *count)
{
    size_t capacity = *count;
    *count = nodes == NULL || asked->nodes.length < capacity ? asked->nodes.length : capacity;
    const operation *node = asked->nodes.head;
    for (size_t index = 0; nodes != NULL && index < capacity; index++) {
        nodes[index] = (CUgraphNode)(uintptr_t)node;
        node = node == NULL ? NULL : node->next;
    }
    return CUDA_SUCCESS;
}

CUresult
cuGraphGetNodes(CUgraph handle, CUgraphNode *nodes, size_t *count)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    if (code == CUDA_SUCCESS) {
        const graph *asked = object_find(OBJECT_GRAPH, handle);
        code = asked == NULL || count == NULL ? CUDA_ERROR_INVALID_VALUE : get_nodes(asked, nodes, count);
    }
    return call_end(code);
}

static CUresult
instantiate(CUgraphExec *handle, CUgraph graph_handle)
{
    const graph *from = object_find(OBJECT_GRAPH, graph_handle);
    if (from == NULL || handle == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    exec *instance = calloc(1, sizeof *instance);
    exec_handle *created = object_create(OBJECT_EXEC, context_device(), sizeof *created);
    if (instance == NULL || created == NULL || !append_all(&instance->nodes, &from->nodes)) {
        free(instance);
        if (created != NULL) {
            object_destroy(created);
        }
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    instance->references = 1;
    created->exec = instance;
    created->base.clear = clear_exec;
    *handle = (CUgraphExec)created->base.handle;
    return CUDA_SUCCESS;
}

CUresult
cuGraphInstantiateWithFlags(CUgraphExec *handle, CUgraph graph_handle, unsigned long long flags)
{
    (void)flags; /* they change where and when memory is set up, of which there is none */
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    return call_end(code == CUDA_SUCCESS ? instantiate(handle, graph_handle) : code);
}

CUresult
cuGraphUpload(CUgraphExec handle, CUstream on)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        const exec_handle *uploaded = object_find(OBJECT_EXEC, handle);
        const stream *to = stream_find(on);
        code = uploaded == NULL || to == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
    }
    return call_end(code);
}

CUresult
cuGraphLaunch(CUgraphExec handle, CUstream on)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        const exec_handle *launched = object_find(OBJECT_EXEC, handle);
        stream *to = stream_find(on);
        if (launched == NULL || to == NULL) {
            return call_end(CUDA_ERROR_INVALID_HANDLE);
        }
        operation work = {.kind = OPERATION_LAUNCH, .exec = launched->exec, .polls_left = the_machine.lag};
        code = stream_submit(to, &work);
    }
    return call_end(code);
}

CUresult
cuGraphExecDestroy(CUgraphExec handle)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        exec_handle *gone = object_find(OBJECT_EXEC, handle);
        if (gone == NULL) {
            return call_end(CUDA_ERROR_INVALID_VALUE);
        }
        object_destroy(gone);
    } else if (call_was_injected()) {
        object_withhold(OBJECT_EXEC, handle);
    }
    return call_end(code);
}

CUresult
cuGraphDestroy(CUgraph handle)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        graph *gone = object_find(OBJECT_GRAPH, handle);
        if (gone == NULL) {
            return call_end(CUDA_ERROR_INVALID_VALUE);
        }
        object_destroy(gone);
    } else if (call_was_injected()) {
        object_withhold(OBJECT_GRAPH, handle);
    }
    return call_end(code);
}
