/* The extension module: what is not a method of one of its types. */
#include "pycore.h"

#include "normal.h"

static PyObject *
core_host_device(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return vdmrt_make_device(PyModule_GetState(module), vdmrt_device_host());
}

static PyObject *
core_cuda_device(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"index", NULL};
    PyObject *index_value = NULL;
    uint64_t index = 0;
    vdmrt_device device;
    vdmrt_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cuda_device", names, &index_value) ||
        (index_value != NULL &&
         !vdmrt_parse_integer("cuda_device", "index", index_value, 0, INT_MAX, &index))) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = vdmrt_device_cuda((int)index, &device);
    Py_END_ALLOW_THREADS
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(module, NULL, status, "cuda_device", (size_t)index);
    }
    return vdmrt_make_device(PyModule_GetState(module), device);
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
    if (!vdmrt_parse_address(call, "address", address_value, &address) ||
        !vdmrt_parse_integer(call, "count", count_value, 0, VDMRT_NORMAL_MAX_COUNT, &count) ||
        !vdmrt_parse_integer(call, "seed", seed_value, 0, UINT64_MAX, &seed) ||
        !vdmrt_parse_integer(call, "frame", frame_value, 0, VDMRT_NORMAL_MAX_FRAME, &frame) ||
        !vdmrt_parse_integer(call, "step", step_value, 0, VDMRT_NORMAL_MAX_STEP, &step) ||
        !vdmrt_parse_integer(call, "kind", kind_value, 0, VDMRT_NORMAL_KIND_PREFIX, &kind)) {
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
    if ((state->device_error = vdmrt_import_device_error(module)) == NULL ||
        (state->device_type = add_type(module, &vdmrt_device_spec)) == NULL ||
        (state->memory_type = add_type(module, &vdmrt_memory_spec)) == NULL ||
        (state->events_type = add_type(module, &vdmrt_events_spec)) == NULL ||
        (state->graph_type = add_type(module, &vdmrt_graph_spec)) == NULL ||
        (state->ring_type = add_type(module, &vdmrt_ring_spec)) == NULL) {
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
    Py_VISIT(state->device_error);
    Py_VISIT(state->device_type);
    Py_VISIT(state->memory_type);
    Py_VISIT(state->events_type);
    Py_VISIT(state->graph_type);
    Py_VISIT(state->ring_type);
    return 0;
}

static int
core_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->device_error);
    Py_CLEAR(state->device_type);
    Py_CLEAR(state->memory_type);
    Py_CLEAR(state->events_type);
    Py_CLEAR(state->graph_type);
    Py_CLEAR(state->ring_type);
    return 0;
}

static void
core_free(void *module)
{
    core_clear((PyObject *)module);
}

PyDoc_STRVAR(
    core_doc,
    "The C core: devices, captured graphs, the KV ring's slot arithmetic, and counter-based random normals.");

PyDoc_STRVAR(core_fill_normal_doc,
             "fill_normal($module, /, address, count, *, seed, frame, step, kind)\n"
             "--\n"
             "\n"
             "Write ``count`` float32 standard normals of one latent frame to host memory at ``address``.");

static PyMethodDef core_methods[] = {
    {"host_device", core_host_device, METH_NOARGS,
     PyDoc_STR(
         "host_device($module, /)\n--\n\nReturn the host's device: aligned host memory, copies by the CPU.")},
    {"cuda_device", (PyCFunction)(void (*)(void))core_cuda_device, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("cuda_device($module, /, index=0)\n--\n\nOpen a queue of its own on an NVIDIA GPU.")},
    {"fill_normal", (PyCFunction)(void (*)(void))core_fill_normal, METH_VARARGS | METH_KEYWORDS,
     core_fill_normal_doc},
    {"inspect_dlpack", vdmrt_inspect_dlpack, METH_O,
     PyDoc_STR("inspect_dlpack($module, capsule, /)\n--\n\nSay where a DLPack tensor lies and what it is.")},
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
