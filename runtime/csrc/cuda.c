/* A queue on an NVIDIA GPU: a stream in the primary context. */
#include "cuda_queue.h"

#include <stdlib.h>

/* Memory */

static vdmrt_status
allocate_zeros(cuda_queue *queue, size_t nbytes, uintptr_t *address)
{
    CUdeviceptr memory = 0;
    vdmrt_status status = CALL(queue, allocate, &memory, nbytes);
    if (status != VDMRT_OK) {
        return status;
    }
    status = CALL(queue, set, memory, 0, nbytes, queue->stream);
    if (status != VDMRT_OK) {
        (void)CALL(queue, release, memory);
        return status;
    }
    *address = (uintptr_t)memory;
    return VDMRT_OK;
}

static vdmrt_status
cuda_allocate(void *context, size_t nbytes, uintptr_t *address)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, allocate_zeros(queue, nbytes, address));
}

static vdmrt_status
cuda_synchronize(void *context)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, CALL(queue, stream_synchronize, queue->stream));
}

static vdmrt_status
cuda_synchronize_stream(void *context, uintptr_t stream)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, CALL(queue, stream_synchronize, (CUstream)stream));
}

static vdmrt_status
free_memory(cuda_queue *queue, CUdeviceptr memory)
{
    UNDO(queue, release, memory);
}

static vdmrt_status
cuda_release(void *context, uintptr_t address)
{
    vdmrt_status passed = cuda_synchronize(context);
    return cuda_first_failure(passed, free_memory(context, (CUdeviceptr)address));
}

static vdmrt_status
cuda_allocate_pinned(void *context, size_t nbytes, uintptr_t *address)
{
    cuda_queue *queue = context;
    void **memory = (void **)address;
    IN_CONTEXT(queue, CALL(queue, allocate_pinned, memory, nbytes, CU_MEMHOSTALLOC_PORTABLE));
}

static vdmrt_status
free_pinned(cuda_queue *queue, void *memory)
{
    UNDO(queue, release_pinned, memory);
}

static vdmrt_status
cuda_release_pinned(void *context, uintptr_t address)
{
    vdmrt_status passed = cuda_synchronize(context);
    return cuda_first_failure(passed, free_pinned(context, (void *)address));
}

static vdmrt_status
cuda_locate(void *context, uintptr_t address, int *index)
{
    cuda_queue *queue = context;
    enum { CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9 };
    IN_CONTEXT(queue, CALL(queue, pointer_attribute, index, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                           (CUdeviceptr)address));
}

static vdmrt_status
cuda_memory_info(void *context, vdmrt_memory_info *info)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, CALL(queue, memory_info, &info->free_nbytes, &info->total_nbytes));
}

/* Copies */

static vdmrt_status
copy_any(cuda_queue *queue, uintptr_t to, uintptr_t from, size_t nbytes, vdmrt_direction direction)
{
    switch (direction) {
    case VDMRT_UPLOAD:
        return CALL(queue, upload, (CUdeviceptr)to, (const void *)from, nbytes, queue->stream);
    case VDMRT_DOWNLOAD:
        return CALL(queue, download, (void *)to, (CUdeviceptr)from, nbytes, queue->stream);
    default:
        return CALL(queue, copy, (CUdeviceptr)to, (CUdeviceptr)from, nbytes, queue->stream);
    }
}

static vdmrt_status
cuda_copy(void *context, uintptr_t to, uintptr_t from, size_t nbytes, vdmrt_direction direction)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, copy_any(queue, to, from, nbytes, direction));
}

static vdmrt_status
cuda_copy_3d(void *context, vdmrt_planes to, vdmrt_planes from, vdmrt_extent extent)
{
    cuda_queue *queue = context;
    const CUDA_MEMCPY3D copy = {
        .srcMemoryType = CU_MEMORYTYPE_DEVICE,
        .srcDevice = (CUdeviceptr)from.address,
        .srcPitch = from.pitch,
        .srcHeight = from.plane_height,
        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
        .dstDevice = (CUdeviceptr)to.address,
        .dstPitch = to.pitch,
        .dstHeight = to.plane_height,
        .WidthInBytes = extent.width,
        .Height = extent.height,
        .Depth = extent.depth,
    };
    IN_CONTEXT(queue, CALL(queue, copy_3d, &copy, queue->stream));
}

static vdmrt_status
cuda_zero_2d(void *context, uintptr_t address, size_t pitch, size_t width, size_t height)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, CALL(queue, set_2d, (CUdeviceptr)address, pitch, 0, width, height, queue->stream));
}

/* Leaves the primary context current, for libraries that take what they find on the calling thread. */
static vdmrt_status
cuda_activate(void *context)
{
    cuda_queue *queue = context;
    return CALL(queue, context_set, queue->primary);
}

static vdmrt_status
cuda_enter(void *context)
{
    cuda_queue *queue = context;
    return CALL(queue, context_push, queue->primary);
}

static vdmrt_status
cuda_leave(void *context)
{
    cuda_queue *queue = context;
    CUcontext popped;
    return CALL(queue, context_pop, &popped);
}

/* Opening and closing */

static vdmrt_status
destroy_stream(cuda_queue *queue)
{
    UNDO(queue, stream_destroy, queue->stream);
}

static vdmrt_status
release_context(cuda_queue *queue)
{
    vdmrt_status status = CALL(queue, context_release, queue->gpu);
    if (status != VDMRT_OK) {
        (void)CALL(queue, context_release, queue->gpu);
    }
    return status;
}

static vdmrt_status
cuda_destroy(void *context)
{
    cuda_queue *queue = context;
    vdmrt_status status = destroy_stream(queue);
    status = cuda_first_failure(status, release_context(queue));
    free(queue);
    return status;
}

static const vdmrt_device_table CUDA = {
    .kind = "cuda",
    .allocate = cuda_allocate,
    .release = cuda_release,
    .allocate_pinned = cuda_allocate_pinned,
    .release_pinned = cuda_release_pinned,
    .copy = cuda_copy,
    .copy_3d = cuda_copy_3d,
    .zero_2d = cuda_zero_2d,
    .synchronize = cuda_synchronize,
    .synchronize_stream = cuda_synchronize_stream,
    .locate = cuda_locate,
    .memory_info = cuda_memory_info,
    .activate = cuda_activate,
    .enter = cuda_enter,
    .leave = cuda_leave,
    .create_event = vdmrt_cuda_create_event,
    .destroy_event = vdmrt_cuda_destroy_event,
    .record = vdmrt_cuda_record,
    .query = vdmrt_cuda_query,
    .elapsed = vdmrt_cuda_elapsed,
    .begin_capture = vdmrt_cuda_begin_capture,
    .end_capture = vdmrt_cuda_end_capture,
    .abort_capture = vdmrt_cuda_abort_capture,
    .launch = vdmrt_cuda_launch,
    .destroy_graph = vdmrt_cuda_destroy_graph,
    .destroy = cuda_destroy,
};

static vdmrt_status
create_stream(cuda_queue *queue)
{
    IN_CONTEXT(queue, CALL(queue, stream_create, &queue->stream, CU_STREAM_NON_BLOCKING));
}

static vdmrt_status
open_queue(cuda_queue *queue, int index)
{
    int count = 0;
    vdmrt_status status = vdmrt_cuda_open(&queue->cuda);
    if (status == VDMRT_OK) {
        status = CALL(queue, device_count, &count);
    }
    if (status == VDMRT_OK && (index < 0 || index >= count)) {
        status = VDMRT_ERROR_INDEX;
    }
    if (status == VDMRT_OK) {
        status = CALL(queue, device_get, &queue->gpu, index);
    }
    if (status == VDMRT_OK) {
        status = CALL(queue, context_retain, &queue->primary, queue->gpu);
    }
    if (status != VDMRT_OK) {
        return status;
    }
    status = create_stream(queue);
    if (status != VDMRT_OK) {
        if (queue->stream != NULL) {
            (void)destroy_stream(queue);
        }
        (void)release_context(queue);
    }
    return status;
}

vdmrt_status
vdmrt_device_cuda(int index, vdmrt_device *device)
{
    cuda_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) {
        return VDMRT_ERROR_MEMORY;
    }
    vdmrt_status status = open_queue(queue, index);
    if (status != VDMRT_OK) {
        free(queue);
        return status;
    }
    *device =
        (vdmrt_device){.table = &CUDA, .context = queue, .index = index, .stream = (uintptr_t)queue->stream};
    return VDMRT_OK;
}
