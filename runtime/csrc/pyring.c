/* vdmrt.runtime._core.Ring: mapping of latent frames to slots. */
#include "pycore.h"

#include "ring.h"

typedef struct RingObject {
    PyObject_HEAD
    vdmrt_ring ring;
} RingObject;

static PyObject *
ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"slots", "sinks", "written", NULL};
    PyObject *slots_value, *sinks_value = NULL, *written_value = NULL;
    uint64_t slots, sinks = 0, written = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OO:Ring", names, &slots_value, &sinks_value,
                                     &written_value) ||
        !vdmrt_parse_integer("ring", "slots", slots_value, 1, VDMRT_RING_MAX_SLOTS, &slots) ||
        (sinks_value != NULL && !vdmrt_parse_integer("ring", "sinks", sinks_value, 0, slots - 1, &sinks)) ||
        (written_value != NULL &&
         !vdmrt_parse_integer("ring", "written", written_value, 0, VDMRT_RING_MAX_WRITTEN, &written))) {
        return NULL;
    }
    RingObject *self = (RingObject *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->ring = (vdmrt_ring){
            .slots = (int64_t)slots, .sinks = (int64_t)sinks, .written = (int64_t)written};
    }
    return (PyObject *)self;
}

static void
ring_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    vdmrt_free_object(op);
}

static bool
parse_count(RingObject *self, PyObject *value, int64_t *count)
{
    uint64_t number;
    uint64_t window = (uint64_t)(self->ring.slots - self->ring.sinks);
    if (!vdmrt_parse_integer("ring", "count", value, 1, window, &number)) {
        return false;
    }
    *count = (int64_t)number;
    return true;
}

static PyObject *
ring_segments(PyObject *op, PyObject *value)
{
    RingObject *self = (RingObject *)op;
    int64_t count;
    vdmrt_ring_segment segments[2];
    if (!parse_count(self, value, &count)) {
        return NULL;
    }
    int segment_count = vdmrt_ring_plan(&self->ring, count, segments);
    PyObject *plan = PyTuple_New(segment_count);
    for (int i = 0; plan != NULL && i < segment_count; i++) {
        PyObject *segment = Py_BuildValue("(LLL)", (long long)segments[i].slot, (long long)segments[i].first,
                                          (long long)segments[i].length);
        if (segment == NULL) {
            Py_CLEAR(plan);
        } else {
            PyTuple_SetItem(plan, i, segment);
        }
    }
    return plan;
}

static PyObject *
ring_advance(PyObject *op, PyObject *value)
{
    RingObject *self = (RingObject *)op;
    int64_t count;
    if (!parse_count(self, value, &count)) {
        return NULL;
    }
    vdmrt_ring_advance(&self->ring, count);
    Py_RETURN_NONE;
}

static PyObject *
ring_frame(PyObject *op, PyObject *value)
{
    RingObject *self = (RingObject *)op;
    uint64_t slot;
    if (!vdmrt_parse_integer("ring", "slot", value, 0, (uint64_t)self->ring.slots - 1, &slot)) {
        return NULL;
    }
    return PyLong_FromLongLong(vdmrt_ring_frame(&self->ring, (int64_t)slot));
}

static PyObject *
ring_reset(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RingObject *self = (RingObject *)op;
    vdmrt_ring_reset(&self->ring);
    Py_RETURN_NONE;
}

static PyObject *
ring_get_slots(PyObject *op, void *Py_UNUSED(closure))
{
    RingObject *self = (RingObject *)op;
    return PyLong_FromLongLong(self->ring.slots);
}

static PyObject *
ring_get_sinks(PyObject *op, void *Py_UNUSED(closure))
{
    RingObject *self = (RingObject *)op;
    return PyLong_FromLongLong(self->ring.sinks);
}

static PyObject *
ring_get_written(PyObject *op, void *Py_UNUSED(closure))
{
    RingObject *self = (RingObject *)op;
    return PyLong_FromLongLong(self->ring.written);
}

static PyObject *
ring_get_visible(PyObject *op, void *Py_UNUSED(closure))
{
    RingObject *self = (RingObject *)op;
    return PyLong_FromLongLong(vdmrt_ring_visible(&self->ring));
}

PyDoc_STRVAR(ring_doc,
             "Ring(slots, *, sinks=0, written=0)\n"
             "--\n"
             "\n"
             "Mapping of latent frames to slots: the first ``sinks`` frames are pinned, the others are a ring.");

static PyMethodDef ring_methods[] = {
    {"segments", ring_segments, METH_O,
     PyDoc_STR("segments($self, count, /)\n--\n\nPlan where the next ``count`` latent frames go, as runs "
               "``(slot, first, length)``.")},
    {"advance", ring_advance, METH_O,
     PyDoc_STR("advance($self, count, /)\n--\n\nCount ``count`` latent frames as written.")},
    {"frame", ring_frame, METH_O,
     PyDoc_STR(
         "frame($self, slot, /)\n--\n\nReturn the absolute number of the latent frame in ``slot``, or -1 "
         "for an empty slot.")},
    {"reset", ring_reset, METH_NOARGS, PyDoc_STR("reset($self, /)\n--\n\nForget all frames.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef ring_getset[] = {
    {"slots", ring_get_slots, NULL, PyDoc_STR("Capacity in latent frames."), NULL},
    {"sinks", ring_get_sinks, NULL, PyDoc_STR("Latent frames that are pinned to the first slots."), NULL},
    {"written", ring_get_written, NULL, PyDoc_STR("Latent frames written since the last reset."), NULL},
    {"visible", ring_get_visible, NULL, PyDoc_STR("Slots that hold a frame."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, (void *)ring_doc},
    {Py_tp_new, ring_new},
    {Py_tp_traverse, vdmrt_traverse_type},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_getset, ring_getset},
    {0, NULL},
};

PyType_Spec vdmrt_ring_spec = {
    .name = "vdmrt.runtime._core.Ring",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = ring_slots,
};
