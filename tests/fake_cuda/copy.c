/* The driver's copies and fills: arguments checked and made into operations. */
#include <limits.h>

#include "call.h"
#include "machine.h"
#include "memory.h"
#include "operation.h"
#include "stream.h"

#define MAX_PITCH ((size_t)INT_MAX) /* as the device attribute says */

static plane
flat(const void *address, memory_side side)
{
    return (plane){.side = side, .address = (unsigned char *)(uintptr_t)address};
}

static plane
flat_device(CUdeviceptr address)
{
    return flat((const void *)(uintptr_t)address, MEMORY_DEVICE);
}

/* Says whether a side is memory that the driver would have to stage: host memory that is not pinned. */
static bool
is_pageable(const plane *side)
{
    return side->address != NULL && !memory_is_device(side->address) && !memory_is_pinned(side->address);
}

static CUresult
submit(const operation *work, CUstream handle)
{
    stream *to = stream_find(handle);
    if (to == NULL) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    bool pageable = is_pageable(&work->to) || (work->kind == OPERATION_COPY && is_pageable(&work->from));
    call_log_copy(work->moved, work->width * work->rows * work->slices, pageable);
    return operation_check(work) ? stream_submit(to, work) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult
submit_flat(call_copy moved, plane to, plane from, size_t nbytes, CUstream stream)
{
    operation work = {.kind = OPERATION_COPY,
                      .moved = moved,
                      .to = to,
                      .from = from,
                      .width = nbytes,
                      .rows = 1,
                      .slices = 1};
    if (to.address < from.address + nbytes && from.address < to.address + nbytes) {
        machine_violation("%zu bytes are copied onto themselves", nbytes);
    }
    return submit(&work, stream);
}

CUresult
cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t nbytes, CUstream stream)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        code = submit_flat(COPY_HTOD, flat_device(to), flat(from, MEMORY_HOST), nbytes, stream);
    }
    return call_end(code);
}

CUresult
cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t nbytes, CUstream stream)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        code = submit_flat(COPY_DTOH, flat(to, MEMORY_HOST), flat_device(from), nbytes, stream);
    }
    return call_end(code);
}

CUresult
cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t nbytes, CUstream stream)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS) {
        code = submit_flat(COPY_DTOD, flat_device(to), flat_device(from), nbytes, stream);
    }
    return call_end(code);
}

/* One side of a CUDA_MEMCPY3D, in the same names for both. */
typedef struct box {
    size_t x, y, z;
    CUmemorytype type;
    const void *host;
    CUdeviceptr device;
    size_t pitch;
    size_t height;
} box;

static box
source_of(const CUDA_MEMCPY3D *copy)
{
    return (box){copy->srcXInBytes, copy->srcY,      copy->srcZ,     copy->srcMemoryType,
                 copy->srcHost,     copy->srcDevice, copy->srcPitch, copy->srcHeight};
}

static box
destination_of(const CUDA_MEMCPY3D *copy)
{
    return (box){copy->dstXInBytes, copy->dstY,      copy->dstZ,     copy->dstMemoryType,
                 copy->dstHost,     copy->dstDevice, copy->dstPitch, copy->dstHeight};
}

/* Returns what is wrong with the side, or NULL. */
static const char *
find_fault(const box *side, const CUDA_MEMCPY3D *copy)
{
    bool has_rows = copy->Height > 1 || copy->Depth > 1 || side->y > 0 || side->z > 0;
    bool has_slices = copy->Depth > 1 || side->z > 0;
    if (side->type != CU_MEMORYTYPE_HOST && side->type != CU_MEMORYTYPE_DEVICE &&
        side->type != CU_MEMORYTYPE_UNIFIED) {
        return "is neither host, device nor unified memory";
    }
    if (side->pitch > MAX_PITCH) {
        return "has a pitch over CU_DEVICE_ATTRIBUTE_MAX_PITCH";
    }
    if ((has_rows || side->pitch > 0) && side->pitch < side->x + copy->WidthInBytes) {
        return "has a pitch under x + width";
    }
    if ((has_slices || side->height > 0) && side->height < side->y + copy->Height) {
        return "has a height under y + rows";
    }
    return NULL;
}

static plane
plane_of(const box *side)
{
    bool by_host = side->type == CU_MEMORYTYPE_HOST;
    const void *base = by_host ? side->host : (const void *)(uintptr_t)side->device;
    memory_side may_be = by_host                              ? MEMORY_HOST
                         : side->type == CU_MEMORYTYPE_DEVICE ? MEMORY_DEVICE
                                                              : MEMORY_ANY;
    plane made = flat(base, may_be);
    made.address += (side->z * side->height + side->y) * side->pitch + side->x;
    made.row_pitch = side->pitch;
    made.slice_pitch = side->pitch * side->height;
    return made;
}

static CUresult
submit_3d(const CUDA_MEMCPY3D *copy, CUstream stream)
{
    if (copy == NULL || copy->srcLOD != 0 || copy->dstLOD != 0 || copy->reserved0 != NULL ||
        copy->reserved1 != NULL) {
        machine_violation("the copy is NULL, or a level of detail or a reserved member is not 0");
        return CUDA_ERROR_INVALID_VALUE;
    }
    const box from = source_of(copy);
    const box to = destination_of(copy);
    const char *source_fault = find_fault(&from, copy);
    const char *fault = source_fault != NULL ? source_fault : find_fault(&to, copy);
    if (fault != NULL) {
        machine_violation("the %s %s", fault == source_fault ? "source" : "destination", fault);
        return CUDA_ERROR_INVALID_VALUE;
    }
    operation work = {.kind = OPERATION_COPY,
                      .moved = COPY_3D,
                      .to = plane_of(&to),
                      .from = plane_of(&from),
                      .width = copy->WidthInBytes,
                      .rows = copy->Height,
                      .slices = copy->Depth};
    return submit(&work, stream);
}

CUresult
cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *copy, CUstream stream)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    return call_end(code == CUDA_SUCCESS ? submit_3d(copy, stream) : code);
}

static CUresult
fill(plane to, unsigned char value, size_t width, size_t rows, CUstream stream)
{
    operation work = {.kind = OPERATION_FILL,
                      .moved = COPY_FILL,
                      .to = to,
                      .value = value,
                      .width = width,
                      .rows = rows,
                      .slices = 1};
    return submit(&work, stream);
}

CUresult
cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t nbytes, CUstream stream)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    return call_end(code == CUDA_SUCCESS ? fill(flat_device(to), value, nbytes, 1, stream) : code);
}

CUresult
cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height,
                  CUstream stream)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS && height > 1 && pitch < width) {
        machine_violation("the pitch is under the width");
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        plane rows = flat_device(to);
        rows.row_pitch = pitch;
        code = fill(rows, value, width, height, stream);
    }
    return call_end(code);
}
