/* vdmrt.runtime._core.Graph: a captured step. */
#include "pycore.h"

static PyObject *
graph_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type, (void)args, (void)kwargs;
    return vdmrt_refuse_construction("Graph", "Device.end_capture");
}

PyObject *
vdmrt_make_graph(DeviceObject *device)
{
    static const char call[] = "end_capture";
    vdmrt_status status;
    uintptr_t graph;
    size_t nodes;
    if (!vdmrt_check_open(device, call)) {
        return NULL;
    }
    module_state *state = PyType_GetModuleState(Py_TYPE(device));
    GraphObject *self = state == NULL ? NULL : (GraphObject *)PyType_GenericAlloc(state->graph_type, 0);
    if (self == NULL) {
        /* The error that is set is the one to tell; the queue must not be left capturing. */
        if (device->device.table->abort_capture != NULL) {
            (void)device->device.table->abort_capture(device->device.context);
        }
        return NULL;
    }
    Py_INCREF(device);
    self->device = device;
    VDMRT_WITHOUT_GIL(device, status = vdmrt_device_end_capture(device->device, &graph, &nodes));
    if (status != VDMRT_OK) {
        Py_DECREF(self);
        return vdmrt_raise_status((PyObject *)device, device, status, call, 0);
    }
    self->graph = graph;
    self->nodes = nodes;
    device->users += 1;
    return (PyObject *)self;
}

/* Waits for the queue first: a graph must not be destroyed while it runs. */
static vdmrt_status
wait_and_destroy(vdmrt_device device, uintptr_t graph)
{
    vdmrt_status passed = vdmrt_device_synchronize(device);
    vdmrt_status destroyed = device.table->destroy_graph(device.context, graph);
    return passed != VDMRT_OK ? passed : destroyed;
}

static vdmrt_status
graph_release(GraphObject *self)
{
    vdmrt_status status;
    uintptr_t graph = self->graph;
    if (graph == 0) {
        return VDMRT_OK;
    }
    self->graph = 0;
    VDMRT_WITHOUT_GIL(self->device, status = wait_and_destroy(self->device->device, graph));
    self->device->users -= 1;
    return status;
}

static int
graph_traverse(PyObject *op, visitproc visit, void *arg)
{
    GraphObject *self = (GraphObject *)op;
    Py_VISIT(self->device);
    return vdmrt_traverse_type(op, visit, arg);
}

static void
graph_dealloc(PyObject *op)
{
    GraphObject *self = (GraphObject *)op;
    PyObject_GC_UnTrack(op);
    vdmrt_report_status(op, self->device, graph_release(self), "close", 0);
    Py_DECREF(self->device);
    vdmrt_free_object(op);
}

static PyObject *
graph_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GraphObject *self = (GraphObject *)op;
    if (!vdmrt_check_idle(self->calls, "a graph")) {
        return NULL;
    }
    vdmrt_status status = graph_release(self);
    if (status != VDMRT_OK) {
        return vdmrt_raise_status(op, self->device, status, "close", 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
graph_get_nodes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((GraphObject *)op)->nodes);
}

static PyMethodDef graph_methods[] = {
    {"close", graph_close, METH_NOARGS,
     PyDoc_STR(
         "close($self, /)\n--\n\nWait for the queue and destroy it, unless a replay uses it. Closing twice is "
         "allowed.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef graph_getset[] = {
    {"nodes", graph_get_nodes, NULL, PyDoc_STR("Kernels, copies and the like that one replay runs."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(graph_doc, "A captured CUDA graph. Created by Device.end_capture.");

static PyType_Slot graph_slots[] = {
    {Py_tp_doc, (void *)graph_doc},
    {Py_tp_new, graph_new},
    {Py_tp_traverse, graph_traverse},
    {Py_tp_dealloc, graph_dealloc},
    {Py_tp_methods, graph_methods},
    {Py_tp_getset, graph_getset},
    {0, NULL},
};

PyType_Spec vdmrt_graph_spec = {
    .name = "vdmrt.runtime._core.Graph",
    .basicsize = sizeof(GraphObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = graph_slots,
};
