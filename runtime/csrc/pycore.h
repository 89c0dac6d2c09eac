/* What the files that know Python share: module state, argument checks, and the one way from a status to an
 * error. */
#ifndef VDMRT_PYCORE_H
#define VDMRT_PYCORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "device.h"

typedef struct module_state {
    PyObject *device_error; /* vdmrt.errors.DeviceError */
    PyTypeObject *device_type;
    PyTypeObject *memory_type;
    PyTypeObject *events_type;
    PyTypeObject *graph_type;
    PyTypeObject *ring_type;
} module_state;

/*
 * Who may close what. A device, events and a graph count in `calls` the calls that use their handles without
 * the GIL; a device counts in `users` the objects that were made on it. While either is not 0, `close`
 * refuses with RuntimeError and changes nothing. Memory counts in `exports` the tensors that were handed out,
 * and `close` defers the release to the last of them; the calls that copy and fill take addresses, and
 * whoever passes an address keeps its memory open. All counts change with the GIL held.
 *
 * A call parses its arguments first (their __index__ may close anything), then checks that its objects are
 * open, and counts itself before it releases the GIL. It holds references too, so a destructor never meets a
 * call.
 */

/* Runs a statement without the GIL as a call on `object`, which the caller has just found open. */
#define VDMRT_WITHOUT_GIL(object, statement)                                                                 \
    do {                                                                                                     \
        (object)->calls += 1;                                                                                \
        PyThreadState *suspended = PyEval_SaveThread();                                                      \
        statement;                                                                                           \
        PyEval_RestoreThread(suspended);                                                                     \
        (object)->calls -= 1;                                                                                \
    } while (0)

typedef struct DeviceObject {
    PyObject_HEAD
    vdmrt_device device;
    bool is_open;
    size_t allocated_nbytes;
    size_t users; /* memory, events and graphs that are not released yet */
    size_t calls; /* that run without the GIL */
} DeviceObject;

typedef struct MemoryObject {
    PyObject_HEAD
    DeviceObject *device; /* owned: memory cannot outlive its device */
    uintptr_t address;    /* 0 once released; taken with the GIL held, so that one thread alone releases */
    size_t nbytes;
    size_t exports; /* tensors handed out by DLPack: the release waits for the last of them */
    bool is_closed;
    bool is_pinned; /* host memory, not counted in allocated_nbytes */
} MemoryObject;

typedef struct GraphObject {
    PyObject_HEAD
    DeviceObject *device; /* owned */
    uintptr_t graph;      /* 0 once closed */
    size_t nodes;
    size_t calls; /* that run without the GIL */
} GraphObject;

extern PyType_Spec vdmrt_device_spec, vdmrt_memory_spec, vdmrt_events_spec, vdmrt_graph_spec, vdmrt_ring_spec;

/* New objects of a device; NULL with an exception set. A graph is what the device has captured. */
PyObject *vdmrt_make_device(module_state *state, vdmrt_device device);
PyObject *vdmrt_make_memory(DeviceObject *device, size_t nbytes, bool is_pinned);
PyObject *vdmrt_make_events(DeviceObject *device, size_t count);
PyObject *vdmrt_make_graph(DeviceObject *device);

/* Device.copy, upload, download, copy_3d and zero_2d */
PyObject *vdmrt_copy_method(PyObject *device, PyObject *args);
PyObject *vdmrt_upload_method(PyObject *device, PyObject *args);
PyObject *vdmrt_download_method(PyObject *device, PyObject *args);
PyObject *vdmrt_copy_3d_method(PyObject *device, PyObject *args, PyObject *kwargs);
PyObject *vdmrt_zero_2d_method(PyObject *device, PyObject *args, PyObject *kwargs);

/* Device.replay */
PyObject *vdmrt_replay_method(PyObject *device, PyObject *args, PyObject *kwargs);

/* Frees the bytes once, when there is no other owner. Releases the GIL: on a GPU this waits for the queue.
 */
vdmrt_status vdmrt_memory_release(MemoryObject *memory);

/* Memory.dlpack */
PyObject *vdmrt_dlpack_method(PyObject *memory, PyObject *args, PyObject *kwargs);

/* inspect_dlpack */
PyObject *vdmrt_inspect_dlpack(PyObject *module, PyObject *capsule);

/*
 * Sets the exception that says what a call answered. `module` is any object of this module's types or the
 * module; `call` is the name of the call, `wanted` the number of bytes or the GPU, `device` the device or NULL. Returns
 * NULL.
 */
PyObject *vdmrt_raise_status(PyObject *module, DeviceObject *device, vdmrt_status status, const char *call,
                             size_t wanted);

/* As vdmrt_raise_status, where nothing can be raised: in a destructor, the exception that is set kept. */
void vdmrt_report_status(PyObject *object, DeviceObject *device, vdmrt_status status, const char *call,
                         size_t nbytes);

/* Returns a new reference to vdmrt.errors.DeviceError, or NULL with an exception set. */
PyObject *vdmrt_import_device_error(PyObject *module);

/* Converts `value` (borrowed; NULL for an argument that was left out) and checks low <= value <= high. */
bool vdmrt_parse_integer(const char *call, const char *name, PyObject *value, uint64_t low, uint64_t high,
                         uint64_t *number);

/* As vdmrt_parse_integer, for a number of bytes, rows or planes. */
bool vdmrt_parse_size(const char *call, const char *name, PyObject *value, uint64_t low, size_t high,
                      size_t *size);

bool vdmrt_parse_address(const char *call, const char *name, PyObject *value, uintptr_t *address);

PyObject *vdmrt_refuse_construction(const char *name, const char *maker);

/* Whether a device may be used; else RuntimeError. */
bool vdmrt_check_open(DeviceObject *device, const char *call);

/* Whether no call uses what is to be closed; else RuntimeError. `object` names it, as "a graph". */
bool vdmrt_check_idle(size_t calls, const char *object);

/* An instance owns a reference to its heap type. */
int vdmrt_traverse_type(PyObject *op, visitproc visit, void *arg);
void vdmrt_free_object(PyObject *op);

#endif
