/* vdmrt.runtime._core.Device: one queue on one device. */
#include "pycore.h"

static PyObject *
device_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return vdmrt_refuse_construction("Device", "host_device() or cuda_device()");
}

PyObject *
vdmrt_make_device(module_state *state, vdmrt_device device)
{
    DeviceObject *self = (DeviceObject *)PyType_GenericAlloc(state->device_type, 0);
    if (self == NULL) {
        (void)vdmrt_device_destroy(device);
        return NULL;
    }
    self->device = device;
    self->is_open = true;
    return (PyObject *)self;
}

/* Gives stream and context back, once. */
static vdmrt_status
device_release(DeviceObject *self)
{
    vdmrt_status status;
    if (!self->is_open) {
        return VDMRT_OK;
    }
    self->is_open = false;
    Py_BEGIN_ALLOW_THREADS
    status = vdmrt_device_destroy(self->device);
    Py_END_ALLOW_THREADS
    return status;
}

static void
device_dealloc(PyObject *op)
{
    DeviceObject *self = (DeviceObject *)op;
    PyObject_GC_UnTrack(op);
    vdmrt_report_status(op, NULL, device_release(self), "close", 0);
    vdmrt_free_object(op);
}

static PyObject *
device_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DeviceObject *self = (DeviceObject *)op;
    if (self->users > 0) {
        PyErr_Format(
            PyExc_RuntimeError,
            "close needs a device that is not used, and %zu of its memories, events or graphs are open",
            self->users);
        return NULL;
    }
    if (!vdmrt_check_idle(self->calls, "a device")) {
        return NULL;
    }
    vdmrt_status status = device_release(self);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, NULL, status, "close", 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
device_allocate(PyObject *op, PyObject *value)
{
    size_t nbytes;
    if (!vdmrt_parse_size("allocate", "nbytes", value, 1, PTRDIFF_MAX, &nbytes)) {
        return NULL;
    }
    return vdmrt_make_memory((DeviceObject *)op, nbytes, false);
}

static PyObject *
device_allocate_pinned(PyObject *op, PyObject *value)
{
    size_t nbytes;
    if (!vdmrt_parse_size("allocate_pinned", "nbytes", value, 1, PTRDIFF_MAX, &nbytes)) {
        return NULL;
    }
    return vdmrt_make_memory((DeviceObject *)op, nbytes, true);
}

static PyObject *
device_events(PyObject *op, PyObject *value)
{
    size_t count;
    if (!vdmrt_parse_size("events", "count", value, 1, 1 << 20, &count)) {
        return NULL;
    }
    return vdmrt_make_events((DeviceObject *)op, count);
}

/* Runs one table function of no arguments without the GIL. */
static PyObject *
call_plain(PyObject *op, vdmrt_status (*function)(void *), const char *call)
{
    DeviceObject *self = (DeviceObject *)op;
    vdmrt_status status;
    if (!vdmrt_check_open(self, call)) {
        return NULL;
    }
    if (function == NULL) {
        return vdmrt_raise_status(op, self, VDMRT_ERROR_UNSUPPORTED, call, 0);
    }
    VDMRT_WITHOUT_GIL(self, status = function(self->device.context));
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, call, 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
device_synchronize(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_plain(op, ((DeviceObject *)op)->device.table->synchronize, "synchronize");
}

static PyObject *
device_synchronize_stream(PyObject *op, PyObject *value)
{
    DeviceObject *self = (DeviceObject *)op;
    static const char call[] = "synchronize_stream";
    vdmrt_status status = VDMRT_ERROR_UNSUPPORTED;
    uint64_t stream;
    if (!vdmrt_parse_integer(call, "stream", value, 0, UINTPTR_MAX, &stream) ||
        !vdmrt_check_open(self, call)) {
        return NULL;
    }
    if (self->device.table->synchronize_stream != NULL) {
        VDMRT_WITHOUT_GIL(
            self, status = self->device.table->synchronize_stream(self->device.context, (uintptr_t)stream));
    }
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, call, 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
device_locate(PyObject *op, PyObject *value)
{
    DeviceObject *self = (DeviceObject *)op;
    static const char call[] = "locate";
    vdmrt_status status = VDMRT_ERROR_UNSUPPORTED;
    uintptr_t address;
    int index = 0;
    if (!vdmrt_parse_address(call, "address", value, &address) || !vdmrt_check_open(self, call)) {
        return NULL;
    }
    if (self->device.table->locate != NULL) {
        status = self->device.table->locate(self->device.context, address, &index);
    }
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, call, 0);
    }
    return PyLong_FromLong(index);
}

static PyObject *
device_activate(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_plain(op, ((DeviceObject *)op)->device.table->activate, "activate");
}

static PyObject *
device_begin_capture(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_plain(op, ((DeviceObject *)op)->device.table->begin_capture, "begin_capture");
}

static PyObject *
device_abort_capture(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_plain(op, ((DeviceObject *)op)->device.table->abort_capture, "abort_capture");
}

static PyObject *
device_end_capture(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return vdmrt_make_graph((DeviceObject *)op);
}

static PyObject *
device_memory_info(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DeviceObject *self = (DeviceObject *)op;
    vdmrt_memory_info info = {0};
    if (!vdmrt_check_open(self, "memory_info")) {
        return NULL;
    }
    vdmrt_status status = self->device.table->memory_info(self->device.context, &info);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, "memory_info", 0);
    }
    return Py_BuildValue("(KK)", (unsigned long long)info.free_nbytes, (unsigned long long)info.total_nbytes);
}

static PyObject *
device_get_name(PyObject *op, void *Py_UNUSED(closure))
{
    DeviceObject *self = (DeviceObject *)op;
    if (self->device.table->begin_capture == NULL) {
        return PyUnicode_FromString(self->device.table->kind);
    }
    return PyUnicode_FromFormat("%s:%d", self->device.table->kind, self->device.index);
}

static PyObject *
device_get_stream(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((DeviceObject *)op)->device.stream);
}

static PyObject *
device_get_index(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((DeviceObject *)op)->device.index);
}

static PyObject *
device_get_is_host(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((DeviceObject *)op)->device.table->begin_capture == NULL);
}

static PyObject *
device_get_allocated_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((DeviceObject *)op)->allocated_nbytes);
}

PyDoc_STRVAR(device_doc, "One queue on one device. Created by host_device() or cuda_device().");

PyDoc_STRVAR(device_copy_3d_doc,
             "copy_3d($self, /, destination, source, *, width, height, depth,\n"
             "        destination_pitch, destination_height, source_pitch, source_height)\n"
             "--\n"
             "\n"
             "Copy ``depth`` planes of ``height`` rows of ``width`` bytes.\n"
             "\n"
             "Row y of plane z is at ``address + (z * plane_height + y) * pitch``.");

PyDoc_STRVAR(device_zero_2d_doc, "zero_2d($self, /, address, *, width, height, pitch)\n"
                                 "--\n"
                                 "\n"
                                 "Set ``height`` rows of ``width`` bytes, ``pitch`` bytes apart, to zero.");

PyDoc_STRVAR(
    device_replay_doc,
    "replay($self, /, graph, events, steps, on_step=None)\n"
    "--\n"
    "\n"
    "Replay a captured graph step after step without the GIL; return each launch's host microseconds.");

static PyMethodDef device_methods[] = {
    {"allocate", device_allocate, METH_O,
     PyDoc_STR("allocate($self, nbytes, /)\n--\n\nAllocate zero-filled memory, aligned to 64 bytes.")},
    {"allocate_pinned", device_allocate_pinned, METH_O,
     PyDoc_STR(
         "allocate_pinned($self, nbytes, /)\n--\n\nAllocate host memory that the device copies quickly.")},
    {"copy", vdmrt_copy_method, METH_VARARGS,
     PyDoc_STR("copy($self, destination, source, nbytes, /)\n--\n\nCopy bytes within the device.")},
    {"upload", vdmrt_upload_method, METH_VARARGS,
     PyDoc_STR(
         "upload($self, destination, source, nbytes, /)\n--\n\nCopy bytes from the host to the device.")},
    {"download", vdmrt_download_method, METH_VARARGS,
     PyDoc_STR(
         "download($self, destination, source, nbytes, /)\n--\n\nCopy bytes from the device to the host.")},
    {"copy_3d", (PyCFunction)(void (*)(void))vdmrt_copy_3d_method, METH_VARARGS | METH_KEYWORDS,
     device_copy_3d_doc},
    {"zero_2d", (PyCFunction)(void (*)(void))vdmrt_zero_2d_method, METH_VARARGS | METH_KEYWORDS,
     device_zero_2d_doc},
    {"synchronize", device_synchronize, METH_NOARGS,
     PyDoc_STR("synchronize($self, /)\n--\n\nWait until the queue is empty.")},
    {"synchronize_stream", device_synchronize_stream, METH_O,
     PyDoc_STR("synchronize_stream($self, stream, /)\n--\n\nWait until somebody's stream is empty.")},
    {"locate", device_locate, METH_O,
     PyDoc_STR("locate($self, address, /)\n--\n\nReturn the number of the GPU that an address is of.")},
    {"activate", device_activate, METH_NOARGS,
     PyDoc_STR("activate($self, /)\n--\n\nMake the primary CUDA context current on this thread.")},
    {"memory_info", device_memory_info, METH_NOARGS,
     PyDoc_STR("memory_info($self, /)\n--\n\nReturn the bytes that are free and those there are.")},
    {"events", device_events, METH_O, PyDoc_STR("events($self, count, /)\n--\n\nCreate events.")},
    {"begin_capture", device_begin_capture, METH_NOARGS,
     PyDoc_STR("begin_capture($self, /)\n--\n\nCapture what this thread enqueues instead of running it.")},
    {"end_capture", device_end_capture, METH_NOARGS,
     PyDoc_STR("end_capture($self, /)\n--\n\nReturn what was captured as a graph that can be replayed.")},
    {"abort_capture", device_abort_capture, METH_NOARGS,
     PyDoc_STR("abort_capture($self, /)\n--\n\nForget what was captured.")},
    {"replay", (PyCFunction)(void (*)(void))vdmrt_replay_method, METH_VARARGS | METH_KEYWORDS,
     device_replay_doc},
    {"close", device_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nDestroy the queue, unless a call uses it. Closing twice is allowed.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef device_getset[] = {
    {"name", device_get_name, NULL, PyDoc_STR("Which device this is, as \"host\" or \"cuda:0\"."), NULL},
    {"index", device_get_index, NULL, PyDoc_STR("Number of the GPU; 0 on the host."), NULL},
    {"stream", device_get_stream, NULL, PyDoc_STR("CUstream of the queue; 0 on the host."), NULL},
    {"is_host", device_get_is_host, NULL, PyDoc_STR("Whether addresses are the host's."), NULL},
    {"allocated_nbytes", device_get_allocated_nbytes, NULL,
     PyDoc_STR("Bytes that are allocated and not closed yet."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot device_slots[] = {
    {Py_tp_doc, (void *)device_doc},
    {Py_tp_new, device_new},
    {Py_tp_traverse, vdmrt_traverse_type},
    {Py_tp_dealloc, device_dealloc},
    {Py_tp_methods, device_methods},
    {Py_tp_getset, device_getset},
    {0, NULL},
};

PyType_Spec vdmrt_device_spec = {
    .name = "vdmrt.runtime._core.Device",
    .basicsize = sizeof(DeviceObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = device_slots,
};
