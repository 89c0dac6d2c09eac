/* The device's checked functions, and the host behind them. */
#include "device.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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

static const vdmrt_device_table HOST = {
    .name = "host",
    .allocate = host_allocate,
    .release = host_release,
    .copy_3d = host_copy_3d,
    .zero_2d = host_zero_2d,
    .destroy = NULL,
};

vdmrt_device
vdmrt_device_host(void)
{
    return (vdmrt_device){.table = &HOST, .context = NULL};
}

void
vdmrt_device_destroy(vdmrt_device device)
{
    if (device.table->destroy != NULL) {
        device.table->destroy(device.context);
    }
}

vdmrt_status
vdmrt_device_allocate(vdmrt_device device, size_t nbytes, uintptr_t *address)
{
    *address = 0;
    return device.table->allocate(device.context, nbytes, address);
}

vdmrt_status
vdmrt_device_release(vdmrt_device device, uintptr_t address)
{
    return address == 0 ? VDMRT_OK : device.table->release(device.context, address);
}

static bool
is_empty(vdmrt_extent extent)
{
    return extent.width == 0 || extent.height == 0 || extent.depth == 0;
}

/* Whether the last byte of a non-empty extent still has an address. */
static bool
is_addressable(vdmrt_planes planes, vdmrt_extent extent)
{
    size_t room = UINTPTR_MAX - planes.address;
    if (extent.depth - 1 > (SIZE_MAX - extent.height) / planes.plane_height) {
        return false;
    }
    size_t last_row = (extent.depth - 1) * planes.plane_height + extent.height - 1;
    return extent.width <= room && last_row <= (room - extent.width) / planes.pitch;
}

vdmrt_status
vdmrt_device_copy_3d(vdmrt_device device, vdmrt_planes destination, vdmrt_planes source, vdmrt_extent extent)
{
    if (is_empty(extent)) {
        return VDMRT_OK;
    }
    if (!is_addressable(destination, extent) || !is_addressable(source, extent)) {
        return VDMRT_ERROR_RANGE;
    }
    return device.table->copy_3d(device.context, destination, source, extent);
}

vdmrt_status
vdmrt_device_zero_2d(vdmrt_device device, uintptr_t address, size_t pitch, size_t width, size_t height)
{
    vdmrt_planes planes = {.address = address, .pitch = pitch, .plane_height = height};
    vdmrt_extent extent = {.width = width, .height = height, .depth = 1};
    if (is_empty(extent)) {
        return VDMRT_OK;
    }
    if (!is_addressable(planes, extent)) {
        return VDMRT_ERROR_RANGE;
    }
    return device.table->zero_2d(device.context, address, pitch, width, height);
}
