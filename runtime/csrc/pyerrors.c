/* From a status to a Python exception, and checks of arguments. */
#include "pycore.h"

#include "cuda_driver.h"

/* The extension is <package>.runtime._core: does `from ..errors import DeviceError`. */
PyObject *
vdmrt_import_device_error(PyObject *module)
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
static PyObject *
raise_device_error(PyObject *owner, const char *call, PyObject *message)
{
    PyObject *module = PyModule_Check(owner) ? owner : PyType_GetModule(Py_TYPE(owner));
    module_state *state = module == NULL ? NULL : PyModule_GetState(module);
    PyObject *arguments = NULL;
    PyObject *keywords = NULL;
    PyObject *error = NULL;
    if (message == NULL) {
        goto done;
    }
    if (state == NULL || state->device_error == NULL) {
        /* The interpreter exits and has cleared types and module already: nothing can be imported any more.
         */
        PyErr_Clear();
        PyErr_Format(PyExc_RuntimeError, "%s: %U", call, message);
        goto done;
    }
    if ((arguments = PyTuple_Pack(1, message)) == NULL ||
        (keywords = Py_BuildValue("{s:s}", "call", call)) == NULL) {
        goto done;
    }
    error = PyObject_Call(state->device_error, arguments, keywords);
    if (error != NULL) {
        PyErr_SetObject(state->device_error, error);
    }
done:
    Py_XDECREF(error);
    Py_XDECREF(keywords);
    Py_XDECREF(arguments);
    Py_XDECREF(message);
    return NULL;
}

/* What mends the failures that are met in the field; NVIDIA's page explains the rest. */
static const struct {
    unsigned code;
    const char *advice;
} ADVICE[] = {
    {2, "close what is no longer used, or take a bundle with fewer requests or cache slots"},
    {3, "another thread ended CUDA; do not use it while the process exits"},
    {34,
     "a stub of libcuda for building is loaded; put the driver's own libcuda.so.1 first on the library path"},
    {46, "another process holds the GPU exclusively; end it, or set its compute mode to default"},
    {100, "this machine has no GPU that the driver sees; check nvidia-smi, or choose device='cpu'"},
    {101, "check nvidia-smi and CUDA_VISIBLE_DEVICES"},
    {201, "the primary context was reset by other code of this process; load the model again"},
    {700,
     "a kernel read or wrote foreign memory and the GPU's state of this process is lost; start it again"},
    {709, "the primary context was reset by other code of this process; load the model again"},
    {710, "a kernel's check failed and the GPU's state of this process is lost; start it again"},
    {715, "a kernel's code does not fit this GPU; build the engine on it"},
    {716, "a tensor's address is misaligned and the GPU's state of this process is lost; start it again"},
    {718, "a kernel ran wild and the GPU's state of this process is lost; start it again"},
    {719, "a kernel failed and the GPU's state of this process is lost; start it again"},
    {802, "the GPUs' fabric is not up yet; wait for the fabric manager"},
    {803, "the driver's library and its kernel module differ; reboot, or mount the host's libcuda.so.1"},
    {900, "something in the captured step waits for the device; load with cuda_graph=False"},
    {901, "something in the captured step cannot be captured; load with cuda_graph=False"},
    {906, "something in the captured step touches the default stream; load with cuda_graph=False"},
};

static const char *
advice_on(unsigned code)
{
    for (size_t i = 0; i < sizeof ADVICE / sizeof *ADVICE; i++) {
        if (ADVICE[i].code == code) {
            return ADVICE[i].advice;
        }
    }
    return "look the code up in NVIDIA's CUDA Driver API under CUresult";
}

static PyObject *
raise_driver(PyObject *owner, DeviceObject *device, vdmrt_status status, size_t nbytes)
{
    unsigned code = vdmrt_status_code(status);
    vdmrt_memory_info info = {0};
    PyObject *message;
    bool wanted_memory = code == 2 && nbytes > 0 && device != NULL;
    if (wanted_memory && device->device.table->memory_info(device->device.context, &info) == VDMRT_OK) {
        message =
            PyUnicode_FromFormat("%s: wanted %zu bytes, GPU %d has %zu of %zu bytes free (%zu are allocated "
                                 "here); %s",
                                 vdmrt_cuda_error_name(code), nbytes, device->device.index, info.free_nbytes,
                                 info.total_nbytes, device->allocated_nbytes, advice_on(code));
    } else {
        message = PyUnicode_FromFormat("%s (%u, %s); %s", vdmrt_cuda_error_name(code), code,
                                       vdmrt_cuda_error_words(code), advice_on(code));
    }
    return raise_device_error(owner, vdmrt_cuda_call_name(vdmrt_status_call(status)), message);
}

static PyObject *
raise_old_driver(PyObject *owner)
{
    int found = vdmrt_cuda_version(), wanted = VDMRT_CUDA_OLDEST;
    return raise_device_error(
        owner, "cuDriverGetVersion",
        PyUnicode_FromFormat(
            "wanted a driver for CUDA %d.%d or newer, found one for CUDA %d.%d; install a newer "
            "NVIDIA driver, or choose device='cpu'",
            wanted / 1000, wanted % 1000 / 10, found / 1000, found % 1000 / 10));
}

static PyObject *
raise_memory(PyObject *owner, DeviceObject *device, const char *call, size_t nbytes)
{
    return raise_device_error(
        owner, call,
        PyUnicode_FromFormat(
            "wanted %zu bytes, but the host has not that much memory left (%zu bytes are "
            "allocated here); "
            "close what is no longer used, or take a bundle with fewer requests or cache slots",
            nbytes, device == NULL ? 0 : device->allocated_nbytes));
}

PyObject *
vdmrt_raise_status(PyObject *owner, DeviceObject *device, vdmrt_status status, const char *call,
                   size_t wanted)
{
    switch (vdmrt_status_kind(status)) {
    case VDMRT_ERROR_DRIVER:
        return raise_driver(owner, device, status, wanted);
    case VDMRT_ERROR_MEMORY:
        return raise_memory(owner, device, call, wanted);
    case VDMRT_ERROR_OLD_DRIVER:
        return raise_old_driver(owner);
    case VDMRT_ERROR_NO_DRIVER:
        return raise_device_error(
            owner, "dlopen",
            PyUnicode_FromString(
                "libcuda.so.1 does not load, so there is no NVIDIA driver; install it, or choose "
                "device='cpu'"));
    case VDMRT_ERROR_INDEX:
        return raise_device_error(
            owner, "cuDeviceGet",
            PyUnicode_FromFormat(
                "wanted GPU %zu, and the driver sees %d GPU(s), numbered from 0; check nvidia-smi and "
                "CUDA_VISIBLE_DEVICES",
                wanted, vdmrt_cuda_device_count()));
    case VDMRT_ERROR_EMPTY:
        return raise_device_error(
            owner, "cuStreamEndCapture",
            PyUnicode_FromString(
                "the captured step holds no work, so replaying it would change nothing; what was "
                "to be captured ran on another stream"));
    case VDMRT_ERROR_UNSUPPORTED:
        PyErr_Format(PyExc_RuntimeError, "%s is nothing that this device can do", call);
        return NULL;
    case VDMRT_ERROR_RANGE:
        PyErr_Format(PyExc_ValueError,
                     "%s needs ranges inside the address space, got one that runs past its end", call);
        return NULL;
    default:
        PyErr_Format(PyExc_SystemError, "%s: an error was raised without a failure", call);
        return NULL;
    }
}

/* CUDA_ERROR_DEINITIALIZED: the process exits and the driver has taken everything back itself. */
static bool
has_driver_ended(vdmrt_status status)
{
    return vdmrt_status_kind(status) == VDMRT_ERROR_DRIVER && vdmrt_status_code(status) == 4;
}

void
vdmrt_report_status(PyObject *object, DeviceObject *device, vdmrt_status status, const char *call,
                    size_t nbytes)
{
    PyObject *type, *value, *traceback;
    if (status == VDMRT_OK || has_driver_ended(status)) {
        return;
    }
    PyErr_Fetch(&type, &value, &traceback);
    vdmrt_raise_status(object, device, status, call, nbytes);
    PyErr_WriteUnraisable(NULL);
    PyErr_Restore(type, value, traceback);
}

bool
vdmrt_check_open(DeviceObject *device, const char *call)
{
    if (!device->is_open) {
        PyErr_Format(PyExc_RuntimeError, "%s needs a device that is open, and this one was closed", call);
    }
    return device->is_open;
}

bool
vdmrt_check_idle(size_t calls, const char *object)
{
    if (calls > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "close needs %s that no call uses, found %zu in flight; close again when none is left",
                     object, calls);
    }
    return calls == 0;
}

bool
vdmrt_parse_integer(const char *call, const char *name, PyObject *value, uint64_t low, uint64_t high,
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

bool
vdmrt_parse_size(const char *call, const char *name, PyObject *value, uint64_t low, size_t high, size_t *size)
{
    uint64_t number;
    if (!vdmrt_parse_integer(call, name, value, low, high, &number)) {
        return false;
    }
    *size = (size_t)number;
    return true;
}

bool
vdmrt_parse_address(const char *call, const char *name, PyObject *value, uintptr_t *address)
{
    uint64_t number;
    if (!vdmrt_parse_integer(call, name, value, 1, UINTPTR_MAX, &number)) {
        return false;
    }
    *address = (uintptr_t)number;
    return true;
}

PyObject *
vdmrt_refuse_construction(const char *name, const char *maker)
{
    PyErr_Format(PyExc_TypeError, "%s cannot be constructed directly; it is made by %s", name, maker);
    return NULL;
}

int
vdmrt_traverse_type(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

void
vdmrt_free_object(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}
