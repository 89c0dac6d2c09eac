/* What holds for every device: checks before an implementation is called, and nothing half made after it. */
#include "device.h"

vdmrt_status
vdmrt_device_destroy(vdmrt_device device)
{
    return device.table->destroy == NULL ? VDMRT_OK : device.table->destroy(device.context);
}

vdmrt_status
vdmrt_device_allocate(vdmrt_device device, size_t nbytes, uintptr_t *address)
{
    *address = 0;
    vdmrt_status status = device.table->allocate(device.context, nbytes, address);
    if (status != VDMRT_OK && *address != 0) {
        (void)device.table->release(device.context, *address);
        *address = 0;
    }
    return status;
}

vdmrt_status
vdmrt_device_release(vdmrt_device device, uintptr_t address)
{
    return address == 0 ? VDMRT_OK : device.table->release(device.context, address);
}

vdmrt_status
vdmrt_device_allocate_pinned(vdmrt_device device, size_t nbytes, uintptr_t *address)
{
    *address = 0;
    vdmrt_status status = device.table->allocate_pinned(device.context, nbytes, address);
    if (status != VDMRT_OK && *address != 0) {
        (void)device.table->release_pinned(device.context, *address);
        *address = 0;
    }
    return status;
}

vdmrt_status
vdmrt_device_release_pinned(vdmrt_device device, uintptr_t address)
{
    return address == 0 ? VDMRT_OK : device.table->release_pinned(device.context, address);
}

vdmrt_status
vdmrt_device_copy(vdmrt_device device, uintptr_t destination, uintptr_t source, size_t nbytes,
                  vdmrt_direction direction)
{
    if (nbytes == 0) {
        return VDMRT_OK;
    }
    if (nbytes > UINTPTR_MAX - destination || nbytes > UINTPTR_MAX - source) {
        return VDMRT_ERROR_RANGE;
    }
    return device.table->copy(device.context, destination, source, nbytes, direction);
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

vdmrt_status
vdmrt_device_end_capture(vdmrt_device device, uintptr_t *graph, size_t *nodes)
{
    *graph = 0;
    if (device.table->end_capture == NULL) {
        return VDMRT_ERROR_UNSUPPORTED;
    }
    vdmrt_status status = device.table->end_capture(device.context, graph, nodes);
    if (status != VDMRT_OK && *graph != 0) {
        (void)device.table->destroy_graph(device.context, *graph);
        *graph = 0;
    }
    return status;
}

vdmrt_status
vdmrt_device_synchronize(vdmrt_device device)
{
    return device.table->synchronize(device.context);
}
