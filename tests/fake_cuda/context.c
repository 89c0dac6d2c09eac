/* Contexts: one primary context a device, and a stack a thread. */
#include "context.h"

#include "call.h"
#include "machine.h"
#include "memory.h"
#include "stream.h"

#define MAX_DEPTH    32
#define CONTEXT_MARK ((uintptr_t)0xC0)

/* Devices; a stack of an earlier generation is empty. */
static _Thread_local struct {
    unsigned generation;
    int depth;
    int devices[MAX_DEPTH];
} stack;

static int
depth(void)
{
    if (stack.generation != the_machine.generation) {
        stack.generation = the_machine.generation;
        stack.depth = 0;
    }
    return stack.depth;
}

uint64_t
context_depth(void)
{
    return (uint64_t)depth();
}

int
context_device(void)
{
    return depth() == 0 ? -1 : stack.devices[stack.depth - 1];
}

CUcontext
context_of_device(int device)
{
    uintptr_t serial = (uintptr_t)(device + 1) << 8;
    return (CUcontext)((uintptr_t)the_machine.generation << 48 | serial | CONTEXT_MARK);
}

CUresult
context_check(void)
{
    int device = context_device();
    if (device < 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    return the_machine.gpus[device].retained == 0 ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

/* Returns the context's device, or -1 after noting a violation. */
static int
find_device(CUcontext context)
{
    for (int device = 0; device < the_machine.device_count; device++) {
        if (context == context_of_device(device)) {
            return device;
        }
    }
    uintptr_t generation = (uintptr_t)context >> 48;
    if (generation == 0 || generation >= the_machine.generation) {
        machine_violation("%p is not a context", (void *)context);
    }
    return -1;
}

static bool
is_device(CUdevice device)
{
    return device >= 0 && device < the_machine.device_count;
}

static CUresult
retain(CUcontext *context, CUdevice device)
{
    if (context == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    the_machine.gpus[device].retained++;
    *context = context_of_device(device);
    return CUDA_SUCCESS;
}

CUresult
cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    return call_end(code == CUDA_SUCCESS ? retain(context, device) : code);
}

static uint64_t
count_objects(int device)
{
    uint64_t count = memory_count(device);
    for (int kind = OBJECT_STREAM; kind <= OBJECT_EVENT; kind++) {
        for (object *found = object_next(kind, NULL); found != NULL; found = object_next(kind, found)) {
            count += found->device == device && !found->withheld && !found->implicit;
        }
    }
    return count;
}

static CUresult
release(CUdevice device)
{
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    if (the_machine.gpus[device].retained == 0) {
        machine_violation("the context of device %d is released more often than retained", device);
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    gpu *released = &the_machine.gpus[device];
    uint64_t left = --released->retained == 0 ? count_objects(device) : 0;
    released->withheld = released->withheld < released->retained ? released->withheld : released->retained;
    if (left > 0) {
        machine_violation("the context of device %d goes with %llu objects in it", device,
                          (unsigned long long)left);
    }
    return CUDA_SUCCESS;
}

CUresult
cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        code = release(device);
    } else if (call_was_injected() && is_device(device) && the_machine.gpus[device].retained > 0) {
        the_machine.gpus[device].withheld++;
    }
    return call_end(code);
}

static CUresult
get_state(CUdevice device, unsigned int *flags, int *active)
{
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    if (flags == NULL || active == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *flags = 0;
    *active = the_machine.gpus[device].retained > 0;
    return CUDA_SUCCESS;
}

CUresult
cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    return call_end(code == CUDA_SUCCESS ? get_state(device, flags, active) : code);
}

CUresult
cuCtxGetCurrent(CUcontext *context)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS && context == NULL) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        int device = context_device();
        *context = device < 0 ? NULL : context_of_device(device);
    }
    return call_end(code);
}

static CUresult
push(CUcontext context)
{
    int device = find_device(context);
    if (device < 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (depth() == MAX_DEPTH) {
        machine_violation("%d contexts are pushed and none popped", MAX_DEPTH);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    stack.devices[stack.depth++] = device;
    return CUDA_SUCCESS;
}

static CUresult
set_current(CUcontext context)
{
    if (context != NULL && find_device(context) < 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    stack.depth = depth() == 0 ? 0 : stack.depth - 1;
    return context == NULL ? CUDA_SUCCESS : push(context);
}

CUresult
cuCtxSetCurrent(CUcontext context)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    return call_end(code == CUDA_SUCCESS ? set_current(context) : code);
}

CUresult
cuCtxPushCurrent_v2(CUcontext context)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    return call_end(code == CUDA_SUCCESS ? push(context) : code);
}

static CUresult
pop(CUcontext *context)
{
    int device = context_device();
    if (device < 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    stack.depth--;
    if (context != NULL) {
        *context = context_of_device(device);
    }
    return CUDA_SUCCESS;
}

CUresult
cuCtxPopCurrent_v2(CUcontext *context)
{
    CUresult code = call_begin(__func__, CALL_OUTLIVES_FAILURE);
    return call_end(code == CUDA_SUCCESS ? pop(context) : code);
}

CUresult
cuCtxGetDevice(CUdevice *device)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS && device == NULL) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        *device = context_device();
    }
    return call_end(code);
}

CUresult
cuCtxGetDevice_v2(CUdevice *device, CUcontext context)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    if (code == CUDA_SUCCESS) {
        int found = context == NULL ? context_device() : find_device(context);
        code = device == NULL ? CUDA_ERROR_INVALID_VALUE
               : found < 0    ? CUDA_ERROR_INVALID_CONTEXT
                              : CUDA_SUCCESS;
        if (code == CUDA_SUCCESS) {
            *device = found;
        }
    }
    return call_end(code);
}

CUresult
cuCtxSynchronize(void)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    return call_end(code == CUDA_SUCCESS ? stream_finish_device(context_device()) : code);
}

CUresult
cuCtxSynchronize_v2(CUcontext context)
{
    CUresult code = call_begin(__func__, context == NULL ? CALL_NEEDS_CONTEXT : CALL_PLAIN);
    if (code == CUDA_SUCCESS) {
        int device = context == NULL ? context_device() : find_device(context);
        code = device < 0 ? CUDA_ERROR_INVALID_CONTEXT : stream_finish_device(device);
    }
    return call_end(code);
}
