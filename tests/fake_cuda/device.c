/* The driver and the GPUs that it reports. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "machine.h"

#define TRAITS_OF_DRIVER (CALL_WITHOUT_INIT | CALL_OUTLIVES_FAILURE)

CUresult
cuInit(unsigned int flags)
{
    CUresult code = call_begin(__func__, CALL_WITHOUT_INIT);
    if (code == CUDA_SUCCESS && !the_machine.enabled) {
        code = CUDA_ERROR_NO_DEVICE;
    } else if (code == CUDA_SUCCESS) {
        code = flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        the_machine.initialized = code == CUDA_SUCCESS;
    }
    return call_end(code);
}

CUresult
cuDriverGetVersion(int *version)
{
    CUresult code = call_begin(__func__, TRAITS_OF_DRIVER);
    if (code == CUDA_SUCCESS && version == NULL) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        *version = the_machine.driver_version;
    }
    return call_end(code);
}

CUresult
cuDeviceGetCount(int *count)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    if (code == CUDA_SUCCESS && count == NULL) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        *count = the_machine.device_count;
    }
    return call_end(code);
}

/* Says why a result may not be written about the device, or CUDA_SUCCESS. */
static CUresult
check(CUdevice device, const void *result)
{
    if (device < 0 || device >= the_machine.device_count) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    return result == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult
cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    code = code == CUDA_SUCCESS ? check(ordinal, device) : code;
    if (code == CUDA_SUCCESS) {
        *device = ordinal;
    }
    return call_end(code);
}

CUresult
cuDeviceGetName(char *name, int length, CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    code = code == CUDA_SUCCESS ? check(device, name) : code;
    if (code == CUDA_SUCCESS && length > 0) {
        const char *given = the_machine.gpus[device].name;
        snprintf(name, (size_t)length, "%s", given[0] != '\0' ? given : "vdmrt fake GPU");
    }
    return call_end(code);
}

static const struct {
    CUdevice_attribute attribute;
    int value;
} attributes[] = {
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_PITCH, INT_MAX},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 1},
    {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 0},
};

static CUresult
get_attribute(int *value, CUdevice_attribute attribute)
{
    for (size_t index = 0; index < sizeof attributes / sizeof *attributes; index++) {
        if (attributes[index].attribute == attribute) {
            *value = attributes[index].value;
            return CUDA_SUCCESS;
        }
    }
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) {
        *value = the_machine.compute_capability / 10;
        return CUDA_SUCCESS;
    }
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) {
        *value = the_machine.compute_capability % 10;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult
cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    code = code == CUDA_SUCCESS ? check(device, value) : code;
    return call_end(code == CUDA_SUCCESS ? get_attribute(value, attribute) : code);
}

CUresult
cuDeviceTotalMem_v2(size_t *nbytes, CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    code = code == CUDA_SUCCESS ? check(device, nbytes) : code;
    if (code == CUDA_SUCCESS) {
        *nbytes = the_machine.gpus[device].memory_nbytes;
    }
    return call_end(code);
}

static CUresult
get_uuid(CUuuid *uuid, CUdevice device)
{
    CUresult code = check(device, uuid);
    if (code == CUDA_SUCCESS) {
        memcpy(uuid->bytes, "vdmrt-fake-gpu-0", sizeof uuid->bytes);
        uuid->bytes[15] = (char)('0' + device);
    }
    return code;
}

/* The older form, which some releases of cuda-python call: it differs where a GPU is partitioned, and none is
 * here. */
CUresult
cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    return call_end(code == CUDA_SUCCESS ? get_uuid(uuid, device) : code);
}

CUresult
cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    return call_end(code == CUDA_SUCCESS ? get_uuid(uuid, device) : code);
}
