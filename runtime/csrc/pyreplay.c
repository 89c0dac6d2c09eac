/* vdmrt.runtime._core.Events and Graph, and Device.replay, which runs one over the other. */
#include "pycore.h"

#include "replay.h"

typedef struct EventsObject {
    PyObject_HEAD
    DeviceObject *device; /* owned */
    vdmrt_events events;  /* count 0 once closed */
} EventsObject;

/* What the loop calls back with: the thread state that it gave up, and whom to tell. */
typedef struct listener {
    PyThreadState *thread;
    PyObject *on_step; /* borrowed; NULL for nobody */
    size_t steps_told;
} listener;

/* Takes the GIL for a look at signals and tells of new steps. Returns false with an exception set. */
static bool
listen(void *context, size_t steps_passed)
{
    listener *self = context;
    PyEval_RestoreThread(self->thread);
    bool goes_on = PyErr_CheckSignals() == 0;
    if (goes_on && self->on_step != NULL && steps_passed > self->steps_told) {
        self->steps_told = steps_passed;
        PyObject *answer = PyObject_CallFunction(self->on_step, "n", (Py_ssize_t)steps_passed);
        goes_on = answer != NULL;
        Py_XDECREF(answer);
    }
    self->thread = PyEval_SaveThread();
    return goes_on;
}

/* Events */

static PyObject *
events_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return vdmrt_refuse_construction("Events", "Device.events");
}

PyObject *
vdmrt_make_events(DeviceObject *device, size_t count)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(device));
    if (state == NULL || !vdmrt_check_open(device, "events")) {
        return NULL;
    }
    EventsObject *self = (EventsObject *)PyType_GenericAlloc(state->events_type, 0);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(device);
    self->device = device;
    vdmrt_status status = vdmrt_events_create(device->device, count, &self->events);
    if (status != VDMRT_OK) {
        Py_DECREF(self);
        return vdmrt_raise_status((PyObject *)device, device, status, "events", count * sizeof(uintptr_t));
    }
    device->users += 1;
    return (PyObject *)self;
}

static vdmrt_status
events_release(EventsObject *self)
{
    vdmrt_status status = VDMRT_OK;
    vdmrt_events events = self->events;
    self->events.count = 0;
    if (events.count > 0) {
        Py_BEGIN_ALLOW_THREADS
        status = vdmrt_events_destroy(&events);
        Py_END_ALLOW_THREADS
        self->device->users -= 1;
    }
    return status;
}

static int
events_traverse(PyObject *op, visitproc visit, void *arg)
{
    EventsObject *self = (EventsObject *)op;
    Py_VISIT(self->device);
    return vdmrt_traverse_type(op, visit, arg);
}

static void
events_dealloc(PyObject *op)
{
    EventsObject *self = (EventsObject *)op;
    PyObject_GC_UnTrack(op);
    vdmrt_report_status(op, self->device, events_release(self), "close", 0);
    Py_DECREF(self->device);
    vdmrt_free_object(op);
}

static PyObject *
events_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EventsObject *self = (EventsObject *)op;
    vdmrt_status status = events_release(self);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "close", 0);
    }
    Py_RETURN_NONE;
}

static bool
parse_event(EventsObject *self, const char *call, PyObject *value, size_t *index)
{
    if (self->events.count == 0) {
        PyErr_Format(PyExc_RuntimeError, "%s needs events that are open, and these were closed", call);
        return false;
    }
    return vdmrt_parse_size(call, "event", value, 0, self->events.count - 1, index);
}

static PyObject *
events_record(PyObject *op, PyObject *value)
{
    EventsObject *self = (EventsObject *)op;
    vdmrt_device device = self->events.device;
    size_t index;
    if (!parse_event(self, "record", value, &index)) {
        return NULL;
    }
    vdmrt_status status = device.table->record(device.context, self->events.events[index]);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "record", 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
events_wait(PyObject *op, PyObject *value)
{
    EventsObject *self = (EventsObject *)op;
    size_t index;
    if (!parse_event(self, "wait", value, &index)) {
        return NULL;
    }
    listener nobody = {.thread = PyEval_SaveThread()};
    vdmrt_status status = vdmrt_events_wait(&self->events, index, listen, &nobody);
    PyEval_RestoreThread(nobody.thread);
    if (vdmrt_status_kind(status) == VDMRT_ERROR_CANCELLED) {
        return NULL;
    }
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "wait", 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
events_elapsed_ms(PyObject *op, PyObject *args)
{
    EventsObject *self = (EventsObject *)op;
    vdmrt_device device = self->events.device;
    PyObject *first_value, *last_value;
    size_t first, last;
    double milliseconds = 0;
    if (!PyArg_ParseTuple(args, "OO:elapsed_ms", &first_value, &last_value) ||
        !parse_event(self, "elapsed_ms", first_value, &first) ||
        !parse_event(self, "elapsed_ms", last_value, &last)) {
        return NULL;
    }
    vdmrt_status status = device.table->elapsed(device.context, self->events.events[first],
                                                self->events.events[last], &milliseconds);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "elapsed_ms", 0);
    }
    return PyFloat_FromDouble(milliseconds);
}

static Py_ssize_t
events_length(PyObject *op)
{
    return (Py_ssize_t)((EventsObject *)op)->events.count;
}

PyDoc_STRVAR(events_doc, "Marks in the order of a device's work. Made by Device.events.");

static PyMethodDef events_methods[] = {
    {"record", events_record, METH_O,
     PyDoc_STR("record($self, event, /)\n--\n\nMark what was enqueued so far.")},
    {"wait", events_wait, METH_O,
     PyDoc_STR("wait($self, event, /)\n--\n\nWait until the device has passed a mark; Ctrl-C is seen.")},
    {"elapsed_ms", events_elapsed_ms, METH_VARARGS,
     PyDoc_STR("elapsed_ms($self, first, last, /)\n--\n\nReturn the milliseconds between two passed marks.")},
    {"close", events_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nDestroy all of them. Closing twice is allowed.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot events_slots[] = {
    {Py_tp_doc, (void *)events_doc},
    {Py_tp_new, events_new},
    {Py_tp_traverse, events_traverse},
    {Py_tp_dealloc, events_dealloc},
    {Py_tp_methods, events_methods},
    {Py_sq_length, events_length},
    {0, NULL},
};

PyType_Spec vdmrt_events_spec = {
    .name = "vdmrt.runtime._core.Events",
    .basicsize = sizeof(EventsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = events_slots,
};

/* Graph */

static PyObject *
graph_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return vdmrt_refuse_construction("Graph", "Device.end_capture");
}

PyObject *
vdmrt_make_graph(DeviceObject *device, uintptr_t graph, size_t nodes)
{
    module_state *state = PyType_GetModuleState(Py_TYPE(device));
    GraphObject *self = state == NULL ? NULL : (GraphObject *)PyType_GenericAlloc(state->graph_type, 0);
    if (self == NULL) {
        (void)device->device.table->destroy_graph(device->device.context, graph);
        return NULL;
    }
    Py_INCREF(device);
    self->device = device;
    self->graph = graph;
    self->nodes = nodes;
    device->users += 1;
    return (PyObject *)self;
}

/* Waits for the queue first: a graph must not be destroyed while it runs. */
static vdmrt_status
graph_release(GraphObject *self)
{
    vdmrt_device device = self->device->device;
    uintptr_t graph = self->graph;
    vdmrt_status passed = VDMRT_OK, destroyed = VDMRT_OK;
    if (graph == 0) {
        return VDMRT_OK;
    }
    self->graph = 0;
    Py_BEGIN_ALLOW_THREADS
    passed = vdmrt_device_synchronize(device);
    destroyed = device.table->destroy_graph(device.context, graph);
    Py_END_ALLOW_THREADS
    self->device->users -= 1;
    return passed != VDMRT_OK ? passed : destroyed;
}

static int
graph_traverse(PyObject *op, visitproc visit, void *arg)
{
    GraphObject *self = (GraphObject *)op;
    Py_VISIT(self->device);
    return vdmrt_traverse_type(op, visit, arg);
}

static void
graph_dealloc(PyObject *op)
{
    GraphObject *self = (GraphObject *)op;
    PyObject_GC_UnTrack(op);
    vdmrt_report_status(op, self->device, graph_release(self), "close", 0);
    Py_DECREF(self->device);
    vdmrt_free_object(op);
}

static PyObject *
graph_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GraphObject *self = (GraphObject *)op;
    vdmrt_status status = graph_release(self);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "close", 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
graph_get_nodes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((GraphObject *)op)->nodes);
}

static PyMethodDef graph_methods[] = {
    {"close", graph_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nDestroy it, once the queue has passed it. Closing twice is allowed.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef graph_getset[] = {
    {"nodes", graph_get_nodes, NULL, PyDoc_STR("Kernels, copies and the like that one replay runs."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(graph_doc, "A captured CUDA graph. Made by Device.end_capture.");

static PyType_Slot graph_slots[] = {
    {Py_tp_doc, (void *)graph_doc},
    {Py_tp_new, graph_new},
    {Py_tp_traverse, graph_traverse},
    {Py_tp_dealloc, graph_dealloc},
    {Py_tp_methods, graph_methods},
    {Py_tp_getset, graph_getset},
    {0, NULL},
};

PyType_Spec vdmrt_graph_spec = {
    .name = "vdmrt.runtime._core.Graph",
    .basicsize = sizeof(GraphObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = graph_slots,
};

/* Device.replay */

static PyObject *
list_of(const double *values, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *value = PyFloat_FromDouble(values[i]);
        if (value == NULL || PyList_SetItem(list, (Py_ssize_t)i, value) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static bool
check_replay(DeviceObject *self, GraphObject *graph, EventsObject *events, PyObject *steps_value,
             size_t *steps)
{
    if (graph->device != self || events->device != self) {
        PyErr_SetString(PyExc_ValueError, "replay needs a graph and events of this device, got another's");
        return false;
    }
    if (graph->graph == 0 || events->events.count == 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "replay needs a graph and events that are open, and one was closed");
        return false;
    }
    return vdmrt_parse_size("replay", "steps", steps_value, 1, events->events.count - 1, steps);
}

PyObject *
vdmrt_replay_method(PyObject *op, PyObject *args, PyObject *kwargs)
{
    DeviceObject *self = (DeviceObject *)op;
    static char *names[] = {"graph", "events", "steps", "on_step", NULL};
    module_state *state = PyType_GetModuleState(Py_TYPE(op));
    GraphObject *graph;
    EventsObject *events;
    PyObject *steps_value, *on_step = Py_None;
    size_t steps;
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O|O:replay", names, state->graph_type, &graph,
                                     state->events_type, &events, &steps_value, &on_step) ||
        !check_replay(self, graph, events, steps_value, &steps)) {
        return NULL;
    }
    double *enqueue_us = PyMem_Calloc(steps, sizeof *enqueue_us);
    if (enqueue_us == NULL) {
        return PyErr_NoMemory();
    }
    listener listener = {.on_step = on_step == Py_None ? NULL : on_step};
    const vdmrt_replay replay = {
        .graph = graph->graph,
        .events = &events->events,
        .steps = steps,
        .enqueue_us = enqueue_us,
        .poll = listen,
        .poll_context = &listener,
        .wants_every_step = listener.on_step != NULL,
    };
    listener.thread = PyEval_SaveThread();
    vdmrt_status status = vdmrt_replay_run(&replay);
    PyEval_RestoreThread(listener.thread);

    PyObject *result = NULL;
    if (status == VDMRT_OK) {
        result = list_of(enqueue_us, steps);
    } else if (vdmrt_status_kind(status) != VDMRT_ERROR_CANCELLED) {
        vdmrt_raise_status(op, self, status, "replay", 0);
    }
    PyMem_Free(enqueue_us);
    return result;
}
