/* Copies and fills of vdmrt.runtime._core.Device, by address. */
#include "pycore.h"

static PyObject *
copy_bytes(PyObject *op, PyObject *args, const char *call, vdmrt_direction direction)
{
    DeviceObject *self = (DeviceObject *)op;
    PyObject *destination_value, *source_value, *nbytes_value;
    uintptr_t destination, source;
    size_t nbytes;
    vdmrt_status status;
    if (!PyArg_ParseTuple(args, "OOO", &destination_value, &source_value, &nbytes_value) ||
        !vdmrt_parse_address(call, "destination", destination_value, &destination) ||
        !vdmrt_parse_address(call, "source", source_value, &source) ||
        !vdmrt_parse_size(call, "nbytes", nbytes_value, 0, SIZE_MAX, &nbytes) ||
        !vdmrt_check_open(self, call)) {
        return NULL;
    }
    VDMRT_WITHOUT_GIL(self, status = vdmrt_device_copy(self->device, destination, source, nbytes, direction));
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, call, 0);
    }
    Py_RETURN_NONE;
}

PyObject *
vdmrt_copy_method(PyObject *op, PyObject *args)
{
    return copy_bytes(op, args, "copy", VDMRT_WITHIN);
}

PyObject *
vdmrt_upload_method(PyObject *op, PyObject *args)
{
    return copy_bytes(op, args, "upload", VDMRT_UPLOAD);
}

PyObject *
vdmrt_download_method(PyObject *op, PyObject *args)
{
    return copy_bytes(op, args, "download", VDMRT_DOWNLOAD);
}

static size_t
smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

PyObject *
vdmrt_copy_3d_method(PyObject *op, PyObject *args, PyObject *kwargs)
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
    if (!vdmrt_parse_address(call, "destination", destination_address, &destination.address) ||
        !vdmrt_parse_address(call, "source", source_address, &source.address) ||
        !vdmrt_parse_size(call, "destination_pitch", destination_pitch, 0, SIZE_MAX, &destination.pitch) ||
        !vdmrt_parse_size(call, "destination_height", destination_height, 0, SIZE_MAX,
                          &destination.plane_height) ||
        !vdmrt_parse_size(call, "source_pitch", source_pitch, 0, SIZE_MAX, &source.pitch) ||
        !vdmrt_parse_size(call, "source_height", source_height, 0, SIZE_MAX, &source.plane_height) ||
        !vdmrt_parse_size(call, "width", width, 0, smaller(destination.pitch, source.pitch), &extent.width) ||
        !vdmrt_parse_size(call, "height", height, 0, smaller(destination.plane_height, source.plane_height),
                          &extent.height) ||
        !vdmrt_parse_size(call, "depth", depth, 0, SIZE_MAX, &extent.depth)) {
        return NULL;
    }
    if (!vdmrt_check_open(self, call)) {
        return NULL;
    }
    VDMRT_WITHOUT_GIL(self, status = vdmrt_device_copy_3d(self->device, destination, source, extent));
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, call, 0);
    }
    Py_RETURN_NONE;
}

PyObject *
vdmrt_zero_2d_method(PyObject *op, PyObject *args, PyObject *kwargs)
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
    if (!vdmrt_parse_address(call, "address", address_value, &address) ||
        !vdmrt_parse_size(call, "pitch", pitch_value, 0, SIZE_MAX, &pitch) ||
        !vdmrt_parse_size(call, "width", width_value, 0, pitch, &width) ||
        !vdmrt_parse_size(call, "height", height_value, 0, SIZE_MAX, &height)) {
        return NULL;
    }
    if (!vdmrt_check_open(self, call)) {
        return NULL;
    }
    VDMRT_WITHOUT_GIL(self, status = vdmrt_device_zero_2d(self->device, address, pitch, width, height));
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self, status, call, 0);
    }
    Py_RETURN_NONE;
}
