/*
 * Tensors of device memory for DLPack (https://dmlc.github.io/dlpack/latest/c_api.html): the structures are
 * its ABI.
 */
#include "pycore.h"

enum { DL_CPU = 1, DL_CUDA = 2, DL_MAX_AXES = 8 };

typedef struct DLTensor {
    void *data;
    struct {
        int32_t device_type;
        int32_t device_id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code;
        uint8_t bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct DLManagedTensor {
    DLTensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;

typedef struct exported {
    DLManagedTensor managed; /* first, so that its address is the whole's */
    int64_t shape[DL_MAX_AXES];
    MemoryObject *memory; /* owned */
} exported;

/* Called by the consumer, from any thread, and maybe after Python has ended: then nothing can be released any
 * more. */
static void
delete_exported(DLManagedTensor *managed)
{
    exported *tensor = (exported *)managed;
    if (!Py_IsInitialized()) {
        return;
    }
    PyGILState_STATE gil = PyGILState_Ensure();
    MemoryObject *memory = tensor->memory;
    memory->exports -= 1;
    vdmrt_status status = memory->is_closed ? vdmrt_memory_release(memory) : VDMRT_OK;
    vdmrt_report_status((PyObject *)memory, memory->device, status, "release", memory->nbytes);
    Py_DECREF(memory);
    PyMem_Free(tensor);
    PyGILState_Release(gil);
}

/* An unconsumed capsule still owns its tensor; a consumer renames the capsule. */
static void
delete_capsule(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, "dltensor")) {
        delete_exported(PyCapsule_GetPointer(capsule, "dltensor"));
    }
}

static bool
parse_shape(PyObject *value, exported *tensor)
{
    Py_ssize_t axes = PyTuple_Size(value);
    if (axes < 0 || axes > DL_MAX_AXES) {
        PyErr_Format(PyExc_ValueError, "dlpack needs at most %d axes", DL_MAX_AXES);
        return false;
    }
    for (Py_ssize_t i = 0; i < axes; i++) {
        uint64_t side;
        if (!vdmrt_parse_integer("dlpack", "side", PyTuple_GetItem(value, i), 1, 1u << 31, &side)) {
            return false;
        }
        tensor->shape[i] = (int64_t)side;
    }
    tensor->managed.dl_tensor.ndim = (int32_t)axes;
    return true;
}

/* Whether the tensor's elements fit into `room` bytes; divides, because their product may not fit a number.
 */
static bool
fits(const exported *tensor, uint64_t element_nbytes, uint64_t room)
{
    uint64_t elements = room / element_nbytes;
    for (int32_t i = 0; i < tensor->managed.dl_tensor.ndim; i++) {
        elements /= (uint64_t)tensor->shape[i];
    }
    return elements > 0;
}

static bool
fill_tensor(exported *tensor, MemoryObject *memory, PyObject *address_value, PyObject *shape,
            PyObject *code_value, PyObject *bits_value)
{
    uint64_t address, code, bits;
    uint64_t first = memory->address, end = memory->address + memory->nbytes;
    if (!parse_shape(shape, tensor) ||
        !vdmrt_parse_integer("dlpack", "address", address_value, first, end, &address) ||
        !vdmrt_parse_integer("dlpack", "code", code_value, 0, UINT8_MAX, &code) ||
        !vdmrt_parse_integer("dlpack", "bits", bits_value, 1, UINT8_MAX, &bits)) {
        return false;
    }
    if (!fits(tensor, (bits + 7) / 8, end - address)) {
        PyErr_SetString(PyExc_ValueError,
                        "dlpack needs a tensor inside its memory, got one that runs past it");
        return false;
    }
    DLTensor *dl = &tensor->managed.dl_tensor;
    vdmrt_device device = memory->device->device;
    dl->data = (void *)(uintptr_t)address;
    dl->device.device_type = device.table->begin_capture == NULL || memory->is_pinned ? DL_CPU : DL_CUDA;
    dl->device.device_id = device.index;
    dl->dtype.code = (uint8_t)code;
    dl->dtype.bits = (uint8_t)bits;
    dl->dtype.lanes = 1;
    dl->shape = tensor->shape;
    return true;
}

PyObject *
vdmrt_dlpack_method(PyObject *op, PyObject *args, PyObject *kwargs)
{
    MemoryObject *self = (MemoryObject *)op;
    static char *names[] = {"address", "shape", "code", "bits", NULL};
    PyObject *address, *shape, *code, *bits;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!OO:dlpack", names, &address, &PyTuple_Type, &shape,
                                     &code, &bits)) {
        return NULL;
    }
    if (self->is_closed) {
        PyErr_Format(PyExc_RuntimeError, "this memory of %zu bytes is closed and has no tensors",
                     self->nbytes);
        return NULL;
    }
    exported *tensor = PyMem_Calloc(1, sizeof *tensor);
    if (tensor == NULL) {
        return PyErr_NoMemory();
    }
    /* Exported from here on: an argument's __index__ may close the memory, which must not be released then.
     */
    Py_INCREF(op);
    tensor->memory = self;
    tensor->managed.deleter = delete_exported;
    self->exports += 1;

    PyObject *capsule = NULL;
    if (fill_tensor(tensor, self, address, shape, code, bits)) {
        capsule = PyCapsule_New(&tensor->managed, "dltensor", delete_capsule);
    }
    if (capsule == NULL) {
        delete_exported(&tensor->managed);
    }
    return capsule;
}

/* Strides in elements, those of a contiguous tensor where the producer left them out; NULL with an exception.
 */
static PyObject *
strides_of(const DLTensor *dl)
{
    PyObject *strides = PyTuple_New(dl->ndim);
    int64_t contiguous = 1;
    for (int32_t i = dl->ndim - 1; strides != NULL && i >= 0; i--) {
        PyObject *stride = PyLong_FromLongLong(dl->strides == NULL ? contiguous : dl->strides[i]);
        if (stride == NULL || PyTuple_SetItem(strides, i, stride) < 0) {
            Py_CLEAR(strides);
        }
        contiguous *= dl->shape[i];
    }
    return strides;
}

static PyObject *
shape_of(const DLTensor *dl)
{
    PyObject *shape = PyTuple_New(dl->ndim);
    for (int32_t i = 0; shape != NULL && i < dl->ndim; i++) {
        PyObject *side = PyLong_FromLongLong(dl->shape[i]);
        if (side == NULL || PyTuple_SetItem(shape, i, side) < 0) {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

/* The capsule stays unconsumed: it owns the tensor for as long as its caller keeps it. */
PyObject *
vdmrt_inspect_dlpack(PyObject *Py_UNUSED(module), PyObject *capsule)
{
    if (!PyCapsule_IsValid(capsule, "dltensor")) {
        PyErr_SetString(PyExc_TypeError, "inspect_dlpack needs a capsule 'dltensor' that nobody consumed");
        return NULL;
    }
    const DLTensor *dl = &((DLManagedTensor *)PyCapsule_GetPointer(capsule, "dltensor"))->dl_tensor;
    PyObject *shape = shape_of(dl), *strides = shape == NULL ? NULL : strides_of(dl);
    if (strides == NULL) {
        Py_XDECREF(shape);
        return NULL;
    }
    unsigned long long address = (uintptr_t)dl->data + dl->byte_offset;
    return Py_BuildValue("(KNN(iii))", address, shape, strides, (int)dl->dtype.code, (int)dl->dtype.bits,
                         (int)dl->dtype.lanes);
}
