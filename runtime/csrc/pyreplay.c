/* vdmrt.runtime._core.Events, and Device.replay, which marks the steps of a graph with them. */
#include "pycore.h"

#include "replay.h"

typedef struct EventsObject {
    PyObject_HEAD
    DeviceObject *device; /* owned */
    vdmrt_events events;  /* count 0 once closed */
    size_t calls;         /* that run without the GIL */
} EventsObject;

/* What a loop without the GIL uses and calls back with. The references are borrowed from its arguments. */
typedef struct listener {
    PyThreadState *thread; /* that gave up the GIL */
    EventsObject *events;
    GraphObject *graph; /* NULL for none */
    PyObject *on_step;  /* NULL: none */
    size_t steps_reported;
} listener;

/* Gives up the GIL, counted as a call on events and graph, which the caller has just found open. */
static void
listener_enter(listener *self)
{
    self->events->calls += 1;
    if (self->graph != NULL) {
        self->graph->calls += 1;
    }
    self->thread = PyEval_SaveThread();
}

static void
listener_leave(listener *self)
{
    PyEval_RestoreThread(self->thread);
    self->events->calls -= 1;
    if (self->graph != NULL) {
        self->graph->calls -= 1;
    }
}

/* Acquires the GIL to check for signals and to report new steps. Returns false with an exception set. */
static bool
listen(void *context, size_t steps_passed)
{
    listener *self = context;
    PyEval_RestoreThread(self->thread);
    bool goes_on = PyErr_CheckSignals() == 0;
    if (goes_on && self->on_step != NULL && steps_passed > self->steps_reported) {
        self->steps_reported = steps_passed;
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
    EventsObject *self = state == NULL ? NULL : (EventsObject *)PyType_GenericAlloc(state->events_type, 0);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(device);
    self->device = device;
    if (!vdmrt_check_open(device, "events")) {
        Py_DECREF(self);
        return NULL;
    }
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
        VDMRT_WITHOUT_GIL(self->device, status = vdmrt_events_destroy(&events));
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
    if (!vdmrt_check_idle(self->calls, "events")) {
        return NULL;
    }
    vdmrt_status status = events_release(self);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "close", 0);
    }
    Py_RETURN_NONE;
}

static bool
check_events_open(EventsObject *self, const char *call)
{
    if (self->events.count == 0) {
        PyErr_Format(PyExc_RuntimeError, "%s needs events that are open, and these were closed", call);
    }
    return self->events.count > 0;
}

/* Looks before and after: the number's __index__ may have closed the events. */
static bool
parse_event(EventsObject *self, const char *call, PyObject *value, size_t *index)
{
    return check_events_open(self, call) &&
           vdmrt_parse_size(call, "event", value, 0, self->events.count - 1, index) &&
           check_events_open(self, call);
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
    listener nobody = {.events = self};
    listener_enter(&nobody);
    vdmrt_status status = vdmrt_events_wait(&self->events, index, listen, &nobody);
    listener_leave(&nobody);
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

PyDoc_STRVAR(events_doc, "Reusable timing events on a device's queue. Created by Device.events.");

static PyMethodDef events_methods[] = {
    {"record", events_record, METH_O,
     PyDoc_STR("record($self, event, /)\n--\n\nRecord an event after the work enqueued so far.")},
    {"wait", events_wait, METH_O,
     PyDoc_STR("wait($self, event, /)\n--\n\nWait until the device has passed a mark; Ctrl-C is seen.")},
    {"elapsed_ms", events_elapsed_ms, METH_VARARGS,
     PyDoc_STR("elapsed_ms($self, first, last, /)\n--\n\nReturn the milliseconds between two passed marks.")},
    {"close", events_close, METH_NOARGS,
     PyDoc_STR(
         "close($self, /)\n--\n\nWait for the queue and destroy them, unless a call uses them. Closing twice "
         "is allowed.")},
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
check_replay_open(GraphObject *graph, EventsObject *events)
{
    bool is_open = graph->graph != 0 && events->events.count > 0;
    if (!is_open) {
        PyErr_SetString(PyExc_RuntimeError,
                        "replay needs a graph and events that are open, and one was closed");
    }
    return is_open;
}

/* Looks before and after: the number's __index__ may have closed one. */
static bool
parse_steps(DeviceObject *self, GraphObject *graph, EventsObject *events, PyObject *steps_value,
            size_t *steps)
{
    if (graph->device != self || events->device != self) {
        PyErr_SetString(PyExc_ValueError, "replay needs a graph and events of this device, got another's");
        return false;
    }
    return check_replay_open(graph, events) &&
           vdmrt_parse_size("replay", "steps", steps_value, 1, events->events.count - 1, steps) &&
           check_replay_open(graph, events);
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
        !parse_steps(self, graph, events, steps_value, &steps)) {
        return NULL;
    }
    double *enqueue_us = PyMem_Calloc(steps, sizeof *enqueue_us);
    if (enqueue_us == NULL) {
        return PyErr_NoMemory();
    }
    listener listener = {.events = events, .graph = graph, .on_step = on_step == Py_None ? NULL : on_step};
    const vdmrt_replay replay = {
        .graph = graph->graph,
        .events = &events->events,
        .steps = steps,
        .enqueue_us = enqueue_us,
        .poll = listen,
        .poll_context = &listener,
        .wants_every_step = listener.on_step != NULL,
    };
    listener_enter(&listener);
    vdmrt_status status = vdmrt_replay_run(&replay);
    listener_leave(&listener);

    PyObject *result = NULL;
    if (status == VDMRT_OK) {
        result = list_of(enqueue_us, steps);
    } else if (vdmrt_status_kind(status) != VDMRT_ERROR_CANCELLED) {
        vdmrt_raise_status(op, self, status, "replay", 0);
    }
    PyMem_Free(enqueue_us);
    return result;
}
