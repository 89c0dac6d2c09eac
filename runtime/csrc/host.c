/* The host as a device: memory of the C library, copies by the calling thread, everything complete on return.
 */
#include "device.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static vdmrt_status
host_allocate(void *context, size_t nbytes, uintptr_t *address)
{
    (void)context;
    if (nbytes > SIZE_MAX - (VDMRT_DEVICE_ALIGNMENT - 1)) {
        return VDMRT_ERROR_MEMORY;
    }
    /* C11 wants a multiple of the alignment. */
    size_t rounded_nbytes =
        (nbytes + VDMRT_DEVICE_ALIGNMENT - 1) / VDMRT_DEVICE_ALIGNMENT * VDMRT_DEVICE_ALIGNMENT;
    void *memory = aligned_alloc(VDMRT_DEVICE_ALIGNMENT, rounded_nbytes);
    if (memory == NULL) {
        return VDMRT_ERROR_MEMORY;
    }
    /* Not lazily as by calloc: page faults belong here, not in the first autoregressive step. */
    memset(memory, 0, rounded_nbytes);
    *address = (uintptr_t)memory;
    return VDMRT_OK;
}

static vdmrt_status
host_release(void *context, uintptr_t address)
{
    (void)context;
    free((void *)address);
    return VDMRT_OK;
}

static vdmrt_status
host_copy(void *context, uintptr_t destination, uintptr_t source, size_t nbytes, vdmrt_direction direction)
{
    (void)context, (void)direction;
    memmove((void *)destination, (const void *)source, nbytes);
    return VDMRT_OK;
}

static vdmrt_status
host_copy_3d(void *context, vdmrt_planes destination, vdmrt_planes source, vdmrt_extent extent)
{
    (void)context;
    bool contiguous = extent.width == destination.pitch && extent.width == source.pitch;
    size_t copies = contiguous ? 1 : extent.height;
    size_t copy_nbytes = contiguous ? extent.width * extent.height : extent.width;

    for (size_t z = 0; z < extent.depth; z++) {
        unsigned char *to =
            (unsigned char *)destination.address + z * destination.plane_height * destination.pitch;
        const unsigned char *from =
            (const unsigned char *)source.address + z * source.plane_height * source.pitch;
        for (size_t y = 0; y < copies; y++) {
            memcpy(to + y * destination.pitch, from + y * source.pitch, copy_nbytes);
        }
    }
    return VDMRT_OK;
}

static vdmrt_status
host_zero_2d(void *context, uintptr_t address, size_t pitch, size_t width, size_t height)
{
    (void)context;
    unsigned char *rows = (unsigned char *)address;
    for (size_t y = 0; y < height; y++) {
        memset(rows + y * pitch, 0, width);
    }
    return VDMRT_OK;
}

static vdmrt_status
host_synchronize(void *context)
{
    (void)context;
    return VDMRT_OK;
}

static vdmrt_status
host_memory_info(void *context, vdmrt_memory_info *info)
{
    (void)context;
    long page = sysconf(_SC_PAGESIZE), available = sysconf(_SC_AVPHYS_PAGES), all = sysconf(_SC_PHYS_PAGES);
    if (page <= 0 || available < 0 || all < 0) {
        return VDMRT_ERROR_UNSUPPORTED;
    }
    *info = (vdmrt_memory_info){.free_nbytes = (size_t)available * (size_t)page,
                                .total_nbytes = (size_t)all * (size_t)page};
    return VDMRT_OK;
}

/* An event of the host is the time at which it was recorded. */

static vdmrt_status
host_create_event(void *context, uintptr_t *event)
{
    (void)context;
    struct timespec *time = calloc(1, sizeof *time);
    *event = (uintptr_t)time;
    return time == NULL ? VDMRT_ERROR_MEMORY : VDMRT_OK;
}

static vdmrt_status
host_destroy_event(void *context, uintptr_t event)
{
    return host_release(context, event);
}

static vdmrt_status
host_record(void *context, uintptr_t event)
{
    (void)context;
    return clock_gettime(CLOCK_MONOTONIC, (struct timespec *)event) == 0 ? VDMRT_OK : VDMRT_ERROR_UNSUPPORTED;
}

static vdmrt_status
host_query(void *context, uintptr_t event, bool *passed)
{
    (void)context, (void)event;
    *passed = true;
    return VDMRT_OK;
}

static vdmrt_status
host_elapsed(void *context, uintptr_t first, uintptr_t last, double *milliseconds)
{
    (void)context;
    const struct timespec *from = (const struct timespec *)first, *to = (const struct timespec *)last;
    double seconds = difftime(to->tv_sec, from->tv_sec);
    *milliseconds = 1e3 * seconds + 1e-6 * (double)(to->tv_nsec - from->tv_nsec);
    return VDMRT_OK;
}

static const vdmrt_device_table HOST = {
    .kind = "host",
    .allocate = host_allocate,
    .release = host_release,
    .allocate_pinned = host_allocate,
    .release_pinned = host_release,
    .copy = host_copy,
    .copy_3d = host_copy_3d,
    .zero_2d = host_zero_2d,
    .synchronize = host_synchronize,
    .memory_info = host_memory_info,
    .activate = host_synchronize,
    .enter = host_synchronize,
    .leave = host_synchronize,
    .create_event = host_create_event,
    .destroy_event = host_destroy_event,
    .record = host_record,
    .query = host_query,
    .elapsed = host_elapsed,
};

vdmrt_device
vdmrt_device_host(void)
{
    return (vdmrt_device){.table = &HOST, .context = NULL, .index = 0, .stream = 0};
}
