/* vdmrt.runtime._core.Memory: one block of device memory, or of host memory that a device copies from and to.
 */
#include "pycore.h"

static PyObject *
memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return vdmrt_refuse_construction("Memory", "Device.allocate");
}

PyObject *
vdmrt_make_memory(DeviceObject *device, size_t nbytes, bool is_pinned)
{
    const char *call = is_pinned ? "allocate_pinned" : "allocate";
    vdmrt_status status;
    uintptr_t address;
    module_state *state = PyType_GetModuleState(Py_TYPE(device));
    if (state == NULL) {
        return NULL;
    }
    /* Before the bytes, so that nothing is left to undo when either fails. */
    MemoryObject *memory = (MemoryObject *)PyType_GenericAlloc(state->memory_type, 0);
    if (memory == NULL) {
        return NULL;
    }
    Py_INCREF(device);
    memory->device = device;
    memory->nbytes = nbytes;
    memory->is_pinned = is_pinned;
    if (!vdmrt_check_open(device, call)) {
        Py_DECREF(memory);
        return NULL;
    }

    VDMRT_WITHOUT_GIL(device, status = (is_pinned ? vdmrt_device_allocate_pinned
                                                  : vdmrt_device_allocate)(device->device, nbytes, &address));
    if (status != VDMRT_OK) {
        Py_DECREF(memory);
        return vdmrt_raise_status((PyObject *)device, device, status, call, nbytes);
    }
    memory->address = address;
    device->allocated_nbytes += is_pinned ? 0 : nbytes;
    device->users += 1;
    return (PyObject *)memory;
}

vdmrt_status
vdmrt_memory_release(MemoryObject *self)
{
    vdmrt_status status;
    uintptr_t address = self->address;
    self->is_closed = true;
    if (address == 0 || self->exports > 0) {
        return VDMRT_OK;
    }
    self->address = 0;
    self->device->allocated_nbytes -= self->is_pinned ? 0 : self->nbytes;
    VDMRT_WITHOUT_GIL(self->device,
                      status = (self->is_pinned ? vdmrt_device_release_pinned
                                                : vdmrt_device_release)(self->device->device, address));
    self->device->users -= 1;
    return status;
}

static int
memory_traverse(PyObject *op, visitproc visit, void *arg)
{
    MemoryObject *self = (MemoryObject *)op;
    Py_VISIT(self->device);
    return vdmrt_traverse_type(op, visit, arg);
}

/* NOTE: no memory_clear. Releasing needs the device, and no cycle runs through one: it refers to nothing. */
static void
memory_dealloc(PyObject *op)
{
    MemoryObject *self = (MemoryObject *)op;
    PyObject_GC_UnTrack(op);
    vdmrt_report_status(op, self->device, vdmrt_memory_release(self), "release", self->nbytes);
    Py_DECREF(self->device);
    vdmrt_free_object(op);
}

static PyObject *
memory_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MemoryObject *self = (MemoryObject *)op;
    vdmrt_status status = vdmrt_memory_release(self);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "release", self->nbytes);
    }
    Py_RETURN_NONE;
}

static PyObject *
memory_get_address(PyObject *op, void *Py_UNUSED(closure))
{
    MemoryObject *self = (MemoryObject *)op;
    if (self->is_closed) {
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
    return PyBool_FromLong(self->is_closed);
}

static PyObject *
memory_get_device(PyObject *op, void *Py_UNUSED(closure))
{
    MemoryObject *self = (MemoryObject *)op;
    Py_INCREF(self->device);
    return (PyObject *)self->device;
}

PyDoc_STRVAR(memory_doc,
             "One block of device memory. Created by Device.allocate; freed by close() or with the object.");

static PyMethodDef memory_methods[] = {
    {"close", memory_close, METH_NOARGS,
     PyDoc_STR(
         "close($self, /)\n--\n\nFree the memory, once the queue has passed it. Closing twice is allowed.")},
    {"dlpack", (PyCFunction)(void (*)(void))vdmrt_dlpack_method, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "dlpack($self, /, address, shape, code, bits)\n--\n\nWrap a tensor of this memory for DLPack.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef memory_getset[] = {
    {"address", memory_get_address, NULL, PyDoc_STR("Address of the first byte."), NULL},
    {"nbytes", memory_get_nbytes, NULL, PyDoc_STR("Length in bytes."), NULL},
    {"closed", memory_get_closed, NULL, PyDoc_STR("Whether the memory is freed."), NULL},
    {"device", memory_get_device, NULL, PyDoc_STR("The device it was allocated on."), NULL},
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

PyType_Spec vdmrt_memory_spec = {
    .name = "vdmrt.runtime._core.Memory",
    .basicsize = sizeof(MemoryObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = memory_slots,
};
