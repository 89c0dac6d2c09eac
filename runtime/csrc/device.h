/*
 * Memory and pitched copies on one device, behind one table of functions.
 *
 * All lengths are in bytes. Addresses are integers, because those of a GPU mean nothing to the CPU. A device
 * may be used from several threads at once; two calls must not touch the same bytes. Nothing here knows
 * Python, raises or aborts: what can fail returns a status.
 */
#ifndef VDMRT_DEVICE_H
#define VDMRT_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#define VDMRT_DEVICE_ALIGNMENT 64 /* of every allocation */

typedef enum vdmrt_status {
    VDMRT_OK = 0,
    VDMRT_ERROR_MEMORY, /* the device has not that much memory; nothing was allocated */
    VDMRT_ERROR_RANGE,  /* a range runs past the end of the address space; nothing was touched */
} vdmrt_status;

/*
 * Rows in planes: row y of plane z starts at address + (z * plane_height + y) * pitch.
 * The caller owns the bytes and keeps them alive until the device has passed the call.
 */
typedef struct vdmrt_planes {
    uintptr_t address;
    size_t pitch;        /* from one row to the next */
    size_t plane_height; /* rows from one plane to the next */
} vdmrt_planes;

/* What of each plane is meant: width <= pitch, height <= plane_height. Any of the three may be 0. */
typedef struct vdmrt_extent {
    size_t width;
    size_t height;
    size_t depth;
} vdmrt_extent;

/*
 * What a device is. Callers use the vdmrt_device_* functions below, which check what holds for every device;
 * an implementation writes these, with the arguments checked already. The order of calls on one context is
 * the order of their effects. An implementation with a queue keeps it in its context and may return before
 * bytes have moved.
 */
typedef struct vdmrt_device_table {
    const char *name;
    vdmrt_status (*allocate)(void *context, size_t nbytes, uintptr_t *address);
    vdmrt_status (*release)(void *context, uintptr_t address);
    vdmrt_status (*copy_3d)(void *context, vdmrt_planes destination, vdmrt_planes source,
                            vdmrt_extent extent);
    vdmrt_status (*zero_2d)(void *context, uintptr_t address, size_t pitch, size_t width, size_t height);
    void (*destroy)(void *context); /* (optional) NULL: the context needs no undoing */
} vdmrt_device_table;

/* A table with what its functions need. Small enough to be stored and passed by value. */
typedef struct vdmrt_device {
    const vdmrt_device_table *table;
    void *context; /* owned */
} vdmrt_device;

/* Returns the host: memory of the C library, copies by the calling thread, complete on return. */
vdmrt_device vdmrt_device_host(void);

/* Undoes a device, all of whose memory has been released. */
void vdmrt_device_destroy(vdmrt_device device);

/*
 * Allocates `nbytes` > 0 bytes, all zero, aligned to VDMRT_DEVICE_ALIGNMENT, and stores where they start.
 * The caller gives them back by vdmrt_device_release. On failure *address is 0.
 */
vdmrt_status vdmrt_device_allocate(vdmrt_device device, size_t nbytes, uintptr_t *address);

/* Gives back what vdmrt_device_allocate of this device gave, or 0. A failure too ends the allocation. */
vdmrt_status vdmrt_device_release(vdmrt_device device, uintptr_t address);

/* Copies `extent` from `source` to `destination`; the two must not overlap. */
vdmrt_status vdmrt_device_copy_3d(vdmrt_device device, vdmrt_planes destination, vdmrt_planes source,
                                  vdmrt_extent extent);

/* Sets `height` rows of `width` bytes, `pitch` >= width bytes apart, to zero. */
vdmrt_status vdmrt_device_zero_2d(vdmrt_device device, uintptr_t address, size_t pitch, size_t width,
                                  size_t height);

#endif
