/* The one file that knows Python: converts arguments, owns references, sets exceptions. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "device.h"
#include "normal.h"
#include "ring.h"

typedef struct module_state {
    PyTypeObject *device_type;
    PyTypeObject *memory_type;
    PyTypeObject *ring_type;
} module_state;

typedef struct DeviceObject {
    PyObject_HEAD
    vdmrt_device device;
    size_t allocated_nbytes; /* changed with the GIL held */
} DeviceObject;

typedef struct MemoryObject {
    PyObject_HEAD
    DeviceObject *device; /* owned: memory cannot outlive its device */
    uintptr_t address;    /* 0 once closed; taken with the GIL held, so that one thread alone releases */
    size_t nbytes;
} MemoryObject;

typedef struct RingObject {
    PyObject_HEAD
    vdmrt_ring ring;
} RingObject;

/* Errors and arguments */

/* The extension is <package>.runtime._core: does `from ..errors import DeviceError`. */
static PyObject *
import_device_error(PyObject *module)
{
    PyObject *names = Py_BuildValue("(s)", "DeviceError");
    PyObject *name = PyUnicode_FromString("errors");
    PyObject *errors = NULL;
    PyObject *device_error = NULL;
    if (names != NULL && name != NULL) {
        errors = PyImport_ImportModuleLevelObject(name, PyModule_GetDict(module), NULL, names, 2);
    }
    if (errors != NULL) {
        device_error = PyObject_GetAttrString(errors, "DeviceError");
    }
    Py_XDECREF(errors);
    Py_XDECREF(name);
    Py_XDECREF(names);
    return device_error;
}

/* Raises DeviceError(message, call=call). Steals `message`, which may be NULL with an exception set. */
static void
raise_device_error(DeviceObject *device, const char *call, PyObject *message)
{
    PyObject *module = PyType_GetModule(Py_TYPE(device));
    PyObject *device_error = NULL;
    PyObject *arguments = NULL;
    PyObject *keywords = NULL;
    PyObject *error = NULL;
    if (message == NULL || module == NULL) {
        goto done;
    }
    if ((device_error = import_device_error(module)) == NULL ||
        (arguments = PyTuple_Pack(1, message)) == NULL ||
        (keywords = Py_BuildValue("{s:s}", "call", call)) == NULL) {
        goto done;
    }
    error = PyObject_Call(device_error, arguments, keywords);
    if (error != NULL) {
        PyErr_SetObject(device_error, error);
    }
done:
    Py_XDECREF(error);
    Py_XDECREF(keywords);
    Py_XDECREF(arguments);
    Py_XDECREF(device_error);
    Py_XDECREF(message);
}

/* The sentences for what a device can answer. `nbytes` is what was asked for. Returns NULL. */
static PyObject *
raise_status(DeviceObject *device, vdmrt_status status, const char *call, size_t nbytes)
{
    PyObject *message;
    switch (status) {
    case VDMRT_ERROR_MEMORY:
        message = PyUnicode_FromFormat(
            "wanted %zu bytes, but the %s has not that much memory left (%zu bytes are allocated here); "
            "close what is no longer used, or take a bundle with fewer requests or cache slots",
            nbytes, device->device.table->name, device->allocated_nbytes);
        raise_device_error(device, call, message);
        break;
    case VDMRT_ERROR_RANGE:
        PyErr_Format(PyExc_ValueError,
                     "%s needs ranges inside the address space, got one that runs past its end", call);
        break;
    case VDMRT_OK:
        PyErr_Format(PyExc_SystemError, "%s: an error was raised without a failure", call);
        break;
    }
    return NULL;
}

/* Converts `value` (borrowed; NULL for an argument that was left out) and checks low <= value <= high. */
static bool
parse_integer(const char *call, const char *name, PyObject *value, uint64_t low, uint64_t high,
              uint64_t *number)
{
    if (value == NULL) {
        PyErr_Format(PyExc_TypeError, "%s needs the argument '%s'", call, name);
        return false;
    }
    PyObject *index = PyNumber_Index(value);
    if (index == NULL) {
        return false;
    }
    *number = PyLong_AsUnsignedLongLong(index);
    bool is_unsigned_64 = !(*number == UINT64_MAX && PyErr_Occurred() != NULL);
    bool is_in_range = is_unsigned_64 && low <= *number && *number <= high;
    if (!is_in_range) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s needs %llu <= %s <= %llu, got %R", call, (unsigned long long)low,
                     name, (unsigned long long)high, index);
    }
    Py_DECREF(index);
    return is_in_range;
}

/* As parse_integer, for a number of bytes, rows or planes. */
static bool
parse_size(const char *call, const char *name, PyObject *value, uint64_t low, size_t high, size_t *size)
{
    uint64_t number;
    if (!parse_integer(call, name, value, low, high, &number)) {
        return false;
    }
    *size = (size_t)number;
    return true;
}

static bool
parse_address(const char *call, const char *name, PyObject *value, uintptr_t *address)
{
    uint64_t number;
    if (!parse_integer(call, name, value, 1, UINTPTR_MAX, &number)) {
        return false;
    }
    *address = (uintptr_t)number;
    return true;
}

static size_t
smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static PyObject *
refuse_construction(const char *name, const char *maker)
{
    PyErr_Format(PyExc_TypeError, "%s cannot be constructed directly; it is made by %s", name, maker);
    return NULL;
}

/* An instance owns a reference to its heap type. */
static int
traverse_type(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
free_object(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* Memory */

static PyObject *
memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return refuse_construction("Memory", "Device.allocate");
}

/* Gives the bytes back, once. Releases the GIL: on a GPU this may wait for the device. */
static vdmrt_status
memory_release(MemoryObject *self)
{
    vdmrt_status status;
    uintptr_t address = self->address;
    if (address == 0) {
        return VDMRT_OK;
    }
    self->address = 0;
    self->device->allocated_nbytes -= self->nbytes;
    Py_BEGIN_ALLOW_THREADS
    status = vdmrt_device_release(self->device->device, address);
    Py_END_ALLOW_THREADS
    return status;
}

static int
memory_traverse(PyObject *op, visitproc visit, void *arg)
{
    MemoryObject *self = (MemoryObject *)op;
    Py_VISIT(self->device);
    return traverse_type(op, visit, arg);
}

/* NOTE: no memory_clear. Releasing needs the device, and no cycle runs through one: it refers to nothing. */
static void
memory_dealloc(PyObject *op)
{
    MemoryObject *self = (MemoryObject *)op;
    PyObject *type, *value, *traceback;
    PyObject_GC_UnTrack(op);
    PyErr_Fetch(&type, &value, &traceback);
    vdmrt_status status = memory_release(self);
    if (status != VDMRT_OK) {
        raise_status(self->device, status, "release", self->nbytes);
        PyErr_WriteUnraisable(NULL);
    }
    PyErr_Restore(type, value, traceback);
    Py_DECREF(self->device);
    free_object(op);
}

static PyObject *
memory_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MemoryObject *self = (MemoryObject *)op;
    vdmrt_status status = memory_release(self);
    if (status != VDMRT_OK) {
        return raise_status(self->device, status, "release", self->nbytes);
    }
    Py_RETURN_NONE;
}

static PyObject *
memory_get_address(PyObject *op, void *Py_UNUSED(closure))
{
    MemoryObject *self = (MemoryObject *)op;
    if (self->address == 0) {
        PyErr_Format(PyExc_RuntimeError, "this memory of %zu bytes is closed and has no address",
                     self->nbytes);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(self->address);
}

static PyObject *
memory_get_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    MemoryObject *self = (MemoryObject *)op;
    return PyLong_FromSize_t(self->nbytes);
}

static PyObject *
memory_get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    MemoryObject *self = (MemoryObject *)op;
    return PyBool_FromLong(self->address == 0);
}

PyDoc_STRVAR(memory_doc,
             "One block of device memory. Made by Device.allocate; freed by close() or with the object.");

static PyMethodDef memory_methods[] = {
    {"close", memory_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nFree the memory. Closing twice is allowed.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef memory_getset[] = {
    {"address", memory_get_address, NULL, PyDoc_STR("Address of the first byte."), NULL},
    {"nbytes", memory_get_nbytes, NULL, PyDoc_STR("Length in bytes."), NULL},
    {"closed", memory_get_closed, NULL, PyDoc_STR("Whether the memory is freed."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)memory_doc},
    {Py_tp_new, memory_new},
    {Py_tp_traverse, memory_traverse},
    {Py_tp_dealloc, memory_dealloc},
    {Py_tp_methods, memory_methods},
    {Py_tp_getset, memory_getset},
    {0, NULL},
};

static PyType_Spec memory_spec = {
    .name = "vdmrt.runtime._core.Memory",
    .basicsize = sizeof(MemoryObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = memory_slots,
};

/* Device */

static PyObject *
device_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return refuse_construction("Device", "host_device()");
}

static void
device_dealloc(PyObject *op)
{
    DeviceObject *self = (DeviceObject *)op;
    PyObject_GC_UnTrack(op);
    vdmrt_device_destroy(self->device);
    free_object(op);
}

static PyObject *
device_allocate(PyObject *op, PyObject *value)
{
    DeviceObject *self = (DeviceObject *)op;
    size_t nbytes;
    vdmrt_status status;
    if (!parse_size("allocate", "nbytes", value, 1, PTRDIFF_MAX, &nbytes)) {
        return NULL;
    }
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    if (state == NULL) {
        return NULL;
    }
    /* Before the bytes, so that nothing is left to undo when either fails. */
    MemoryObject *memory = (MemoryObject *)PyType_GenericAlloc(state->memory_type, 0);
    if (memory == NULL) {
        return NULL;
    }
    Py_INCREF(op);
    memory->device = self;
    memory->nbytes = nbytes;

    uintptr_t address;
    Py_BEGIN_ALLOW_THREADS
    status = vdmrt_device_allocate(self->device, nbytes, &address);
    Py_END_ALLOW_THREADS
    if (status != VDMRT_OK) {
        Py_DECREF(memory);
        return raise_status(self, status, "allocate", nbytes);
    }
    memory->address = address;
    self->allocated_nbytes += nbytes;
    return (PyObject *)memory;
}

static PyObject *
device_copy_3d(PyObject *op, PyObject *args, PyObject *kwargs)
{
    DeviceObject *self = (DeviceObject *)op;
    static const char call[] = "copy_3d";
    static char *names[] = {
        "destination",        "source",       "width",         "height", "depth", "destination_pitch",
        "destination_height", "source_pitch", "source_height", NULL,
    };
    PyObject *destination_address, *source_address;
    PyObject *width = NULL, *height = NULL, *depth = NULL;
    PyObject *destination_pitch = NULL, *destination_height = NULL;
    PyObject *source_pitch = NULL, *source_height = NULL;
    vdmrt_planes destination, source;
    vdmrt_extent extent;
    vdmrt_status status;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$OOOOOOO:copy_3d", names, &destination_address,
                                     &source_address, &width, &height, &depth, &destination_pitch,
                                     &destination_height, &source_pitch, &source_height)) {
        return NULL;
    }
    if (!parse_address(call, "destination", destination_address, &destination.address) ||
        !parse_address(call, "source", source_address, &source.address) ||
        !parse_size(call, "destination_pitch", destination_pitch, 0, SIZE_MAX, &destination.pitch) ||
        !parse_size(call, "destination_height", destination_height, 0, SIZE_MAX, &destination.plane_height) ||
        !parse_size(call, "source_pitch", source_pitch, 0, SIZE_MAX, &source.pitch) ||
        !parse_size(call, "source_height", source_height, 0, SIZE_MAX, &source.plane_height) ||
        !parse_size(call, "width", width, 0, smaller(destination.pitch, source.pitch), &extent.width) ||
        !parse_size(call, "height", height, 0, smaller(destination.plane_height, source.plane_height),
                    &extent.height) ||
        !parse_size(call, "depth", depth, 0, SIZE_MAX, &extent.depth)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = vdmrt_device_copy_3d(self->device, destination, source, extent);
    Py_END_ALLOW_THREADS
    if (status != VDMRT_OK) {
        return raise_status(self, status, call, 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
device_zero_2d(PyObject *op, PyObject *args, PyObject *kwargs)
{
    DeviceObject *self = (DeviceObject *)op;
    static const char call[] = "zero_2d";
    static char *names[] = {"address", "width", "height", "pitch", NULL};
    PyObject *address_value, *width_value = NULL, *height_value = NULL, *pitch_value = NULL;
    uintptr_t address;
    size_t width, height, pitch;
    vdmrt_status status;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOO:zero_2d", names, &address_value, &width_value,
                                     &height_value, &pitch_value)) {
        return NULL;
    }
    if (!parse_address(call, "address", address_value, &address) ||
        !parse_size(call, "pitch", pitch_value, 0, SIZE_MAX, &pitch) ||
        !parse_size(call, "width", width_value, 0, pitch, &width) ||
        !parse_size(call, "height", height_value, 0, SIZE_MAX, &height)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = vdmrt_device_zero_2d(self->device, address, pitch, width, height);
    Py_END_ALLOW_THREADS
    if (status != VDMRT_OK) {
        return raise_status(self, status, call, 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
device_get_name(PyObject *op, void *Py_UNUSED(closure))
{
    DeviceObject *self = (DeviceObject *)op;
    return PyUnicode_FromString(self->device.table->name);
}

static PyObject *
device_get_allocated_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    DeviceObject *self = (DeviceObject *)op;
    return PyLong_FromSize_t(self->allocated_nbytes);
}

PyDoc_STRVAR(device_doc, "Memory and pitched copies on one device. Made by host_device(), never directly.");

PyDoc_STRVAR(device_copy_3d_doc,
             "copy_3d($self, /, destination, source, *, width, height, depth,\n"
             "        destination_pitch, destination_height, source_pitch, source_height)\n"
             "--\n"
             "\n"
             "Copy ``depth`` planes of ``height`` rows of ``width`` bytes.\n"
             "\n"
             "Row y of plane z lies at ``address + (z * plane_height + y) * pitch``.");

PyDoc_STRVAR(device_zero_2d_doc, "zero_2d($self, /, address, *, width, height, pitch)\n"
                                 "--\n"
                                 "\n"
                                 "Set ``height`` rows of ``width`` bytes, ``pitch`` bytes apart, to zero.");

static PyMethodDef device_methods[] = {
    {"allocate", device_allocate, METH_O,
     PyDoc_STR("allocate($self, nbytes, /)\n--\n\nAllocate zero-filled memory, aligned to 64 bytes.")},
    {"copy_3d", (PyCFunction)(void (*)(void))device_copy_3d, METH_VARARGS | METH_KEYWORDS,
     device_copy_3d_doc},
    {"zero_2d", (PyCFunction)(void (*)(void))device_zero_2d, METH_VARARGS | METH_KEYWORDS,
     device_zero_2d_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef device_getset[] = {
    {"name", device_get_name, NULL, PyDoc_STR("Which device this is, as \"host\"."), NULL},
    {"allocated_nbytes", device_get_allocated_nbytes, NULL,
     PyDoc_STR("Bytes that are allocated and not closed yet."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot device_slots[] = {
    {Py_tp_doc, (void *)device_doc},
    {Py_tp_new, device_new},
    {Py_tp_traverse, traverse_type},
    {Py_tp_dealloc, device_dealloc},
    {Py_tp_methods, device_methods},
    {Py_tp_getset, device_getset},
    {0, NULL},
};

static PyType_Spec device_spec = {
    .name = "vdmrt.runtime._core.Device",
    .basicsize = sizeof(DeviceObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = device_slots,
};

/* Ring */

static PyObject *
ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"slots", NULL};
    PyObject *value;
    uint64_t slots;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Ring", names, &value) ||
        !parse_integer("ring", "slots", value, 1, VDMRT_RING_MAX_SLOTS, &slots)) {
        return NULL;
    }
    RingObject *self = (RingObject *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->ring = (vdmrt_ring){.slots = (int64_t)slots, .written = 0};
    }
    return (PyObject *)self;
}

static void
ring_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    free_object(op);
}

static bool
parse_count(RingObject *self, PyObject *value, int64_t *count)
{
    uint64_t number;
    if (!parse_integer("ring", "count", value, 1, (uint64_t)self->ring.slots, &number)) {
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
    if (!parse_integer("ring", "slot", value, 0, (uint64_t)self->ring.slots - 1, &slot)) {
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
             "Ring(slots)\n"
             "--\n"
             "\n"
             "Which latent frame lies in which slot: frame f in slot f mod ``slots``. Holds no memory.");

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
    {"written", ring_get_written, NULL, PyDoc_STR("Latent frames written since the last reset."), NULL},
    {"visible", ring_get_visible, NULL, PyDoc_STR("Slots that hold a frame."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, (void *)ring_doc},
    {Py_tp_new, ring_new},
    {Py_tp_traverse, traverse_type},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_getset, ring_getset},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "vdmrt.runtime._core.Ring",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = ring_slots,
};

/* The module */

static PyObject *
core_host_device(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    module_state *state = PyModule_GetState(module);
    DeviceObject *self = (DeviceObject *)PyType_GenericAlloc(state->device_type, 0);
    if (self != NULL) {
        self->device = vdmrt_device_host();
    }
    return (PyObject *)self;
}

static PyObject *
core_fill_normal(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static const char call[] = "fill_normal";
    static char *names[] = {"address", "count", "seed", "frame", "step", "kind", NULL};
    PyObject *address_value, *count_value;
    PyObject *seed_value = NULL, *frame_value = NULL, *step_value = NULL, *kind_value = NULL;
    uintptr_t address;
    uint64_t count, seed, frame, step, kind;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$OOOO:fill_normal", names, &address_value,
                                     &count_value, &seed_value, &frame_value, &step_value, &kind_value)) {
        return NULL;
    }
    if (!parse_address(call, "address", address_value, &address) ||
        !parse_integer(call, "count", count_value, 0, VDMRT_NORMAL_MAX_COUNT, &count) ||
        !parse_integer(call, "seed", seed_value, 0, UINT64_MAX, &seed) ||
        !parse_integer(call, "frame", frame_value, 0, VDMRT_NORMAL_MAX_FRAME, &frame) ||
        !parse_integer(call, "step", step_value, 0, VDMRT_NORMAL_MAX_STEP, &step) ||
        !parse_integer(call, "kind", kind_value, 0, VDMRT_NORMAL_KIND_PREFIX, &kind)) {
        return NULL;
    }
    if (address % sizeof(float) != 0) {
        PyErr_Format(PyExc_ValueError, "fill_normal needs an address that is a multiple of 4, got %R",
                     address_value);
        return NULL;
    }
    vdmrt_normal_stream stream = {
        .seed = seed, .frame = frame, .step = (uint32_t)step, .kind = (vdmrt_normal_kind)kind};
    Py_BEGIN_ALLOW_THREADS
    vdmrt_normal_fill(&stream, (size_t)count, (float *)address);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0) {
        Py_CLEAR(type);
    }
    return type;
}

static int
core_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    if ((state->device_type = add_type(module, &device_spec)) == NULL ||
        (state->memory_type = add_type(module, &memory_spec)) == NULL ||
        (state->ring_type = add_type(module, &ring_spec)) == NULL) {
        return -1;
    }
    if (PyModule_AddIntConstant(module, "INITIAL_NOISE", VDMRT_NORMAL_KIND_INITIAL) < 0 ||
        PyModule_AddIntConstant(module, "STEP_NOISE", VDMRT_NORMAL_KIND_STEP) < 0 ||
        PyModule_AddIntConstant(module, "PREFIX_NOISE", VDMRT_NORMAL_KIND_PREFIX) < 0) {
        return -1;
    }
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->device_type);
    Py_VISIT(state->memory_type);
    Py_VISIT(state->ring_type);
    return 0;
}

static int
core_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->device_type);
    Py_CLEAR(state->memory_type);
    Py_CLEAR(state->ring_type);
    return 0;
}

static void
core_free(void *module)
{
    core_clear((PyObject *)module);
}

PyDoc_STRVAR(core_doc,
             "The C core: device memory, the KV ring's slot arithmetic, and counter-based random normals.");

PyDoc_STRVAR(core_fill_normal_doc,
             "fill_normal($module, /, address, count, *, seed, frame, step, kind)\n"
             "--\n"
             "\n"
             "Write ``count`` float32 standard normals of one latent frame to host memory at ``address``.");

static PyMethodDef core_methods[] = {
    {"host_device", core_host_device, METH_NOARGS,
     PyDoc_STR(
         "host_device($module, /)\n--\n\nReturn the host's device: aligned host memory, copies by the CPU.")},
    {"fill_normal", (PyCFunction)(void (*)(void))core_fill_normal, METH_VARARGS | METH_KEYWORDS,
     core_fill_normal_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,          .m_name = "_core",         .m_doc = core_doc,
    .m_size = sizeof(module_state), .m_methods = core_methods, .m_slots = core_slots,
    .m_traverse = core_traverse,    .m_clear = core_clear,     .m_free = core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
