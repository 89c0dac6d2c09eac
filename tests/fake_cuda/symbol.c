/* The driver's functions by base name and version, for callers that look them up one by one. */
#include <string.h>

#include "call.h"
#include "machine.h"

typedef struct symbol {
    const char *name;
    int since; /* CUDA version of this form of the function */
    void *function;
} symbol;

#define SYMBOL(name, since)    {#name, since, (void *)name}
#define SYMBOL_V2(name, since) {#name, since, (void *)name##_v2}

/* Forms of one name stand from the oldest to the newest. */
static const symbol symbols[] = {
    SYMBOL(cuInit, 2000),
    SYMBOL(cuDriverGetVersion, 2020),
    SYMBOL_V2(cuGetProcAddress, 12000),
    SYMBOL(cuGetErrorName, 6000),
    SYMBOL(cuGetErrorString, 6000),
    SYMBOL(cuDeviceGetCount, 2000),
    SYMBOL(cuDeviceGet, 2000),
    SYMBOL(cuDeviceGetName, 2000),
    SYMBOL(cuDeviceGetAttribute, 2000),
    SYMBOL_V2(cuDeviceTotalMem, 3020),
    SYMBOL(cuDeviceGetUuid, 9020),
    SYMBOL_V2(cuDeviceGetUuid, 11040),
    SYMBOL(cuDevicePrimaryCtxRetain, 7000),
    SYMBOL_V2(cuDevicePrimaryCtxRelease, 11000),
    SYMBOL(cuDevicePrimaryCtxGetState, 7000),
    SYMBOL(cuCtxGetCurrent, 4000),
    SYMBOL(cuCtxSetCurrent, 4000),
    SYMBOL_V2(cuCtxPushCurrent, 4000),
    SYMBOL_V2(cuCtxPopCurrent, 4000),
    SYMBOL(cuCtxGetDevice, 2000),
    SYMBOL_V2(cuCtxGetDevice, 13000),
    SYMBOL(cuCtxSynchronize, 2000),
    SYMBOL_V2(cuCtxSynchronize, 13000),
    SYMBOL_V2(cuMemGetInfo, 3020),
    SYMBOL_V2(cuMemAlloc, 3020),
    SYMBOL_V2(cuMemFree, 3020),
    SYMBOL(cuMemHostAlloc, 2020),
    SYMBOL(cuMemFreeHost, 2000),
    SYMBOL(cuPointerGetAttribute, 4000),
    SYMBOL_V2(cuMemcpyHtoDAsync, 3020),
    SYMBOL_V2(cuMemcpyDtoHAsync, 3020),
    SYMBOL_V2(cuMemcpyDtoDAsync, 3020),
    SYMBOL_V2(cuMemcpy3DAsync, 3020),
    SYMBOL(cuMemsetD8Async, 3020),
    SYMBOL(cuMemsetD2D8Async, 3020),
    SYMBOL(cuStreamCreate, 2000),
    SYMBOL_V2(cuStreamDestroy, 4000),
    SYMBOL(cuStreamSynchronize, 2000),
    SYMBOL(cuStreamQuery, 2000),
    SYMBOL(cuStreamWaitEvent, 3020),
    SYMBOL(cuLaunchHostFunc, 10000),
    SYMBOL_V2(cuStreamBeginCapture, 10010),
    SYMBOL(cuStreamEndCapture, 10000),
    SYMBOL(cuStreamIsCapturing, 10000),
    SYMBOL(cuEventCreate, 2000),
    SYMBOL_V2(cuEventDestroy, 4000),
    SYMBOL(cuEventRecord, 2000),
    SYMBOL(cuEventQuery, 2000),
    SYMBOL(cuEventSynchronize, 2000),
    SYMBOL(cuEventElapsedTime, 2000),
    SYMBOL_V2(cuEventElapsedTime, 12080),
    SYMBOL(cuGraphGetNodes, 10000),
    SYMBOL(cuGraphInstantiateWithFlags, 11040),
    {"cuGraphInstantiate", 12000, (void *)cuGraphInstantiateWithFlags},
    SYMBOL(cuGraphUpload, 11010),
    SYMBOL(cuGraphLaunch, 10000),
    SYMBOL(cuGraphExecDestroy, 10000),
    SYMBOL(cuGraphDestroy, 10000),
};

/* Returns the newest form that the version knows; tells in *is_known whether any version does. */
static void *
find(const char *name, int version, bool *is_known)
{
    void *found = NULL;
    *is_known = false;
    for (size_t index = 0; index < sizeof symbols / sizeof *symbols; index++) {
        if (strcmp(symbols[index].name, name) == 0) {
            *is_known = true;
            found = symbols[index].since <= version ? symbols[index].function : found;
        }
    }
    return found;
}

static CUresult
look_up(const char *name, void **function, int version, CUdriverProcAddressQueryResult *status)
{
    if (name == NULL || function == NULL || version > the_machine.driver_version) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    bool is_known = false;
    *function = find(name, version, &is_known);
    CUdriverProcAddressQueryResult result = *function != NULL ? CU_GET_PROC_ADDRESS_SUCCESS
                                            : is_known        ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                                                              : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    if (status != NULL) {
        *status = result;
    }
    return CUDA_SUCCESS;
}

CUresult
cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                    CUdriverProcAddressQueryResult *status)
{
    (void)flags; /* legacy or per-thread default streams: here they are one */
    CUresult code = call_begin(__func__, CALL_WITHOUT_INIT | CALL_OUTLIVES_FAILURE);
    return call_end(code == CUDA_SUCCESS ? look_up(name, function, version, status) : code);
}
