/*
 * Memory, copies, time and captured graphs on one device, behind one table of functions.
 *
 * All lengths are in bytes. Addresses are integers, because those of a GPU mean nothing to the CPU. A device
 * is a queue: the order of calls on it is the order of their effects, and a call may return before its effect
 * (it has not on the host). It may be used from several threads at once; two calls must not touch the same
 * bytes. Nothing is counted here: a device, an event, a graph or memory must be destroyed only when no call
 * uses it, and the caller sees to that. Nothing here knows Python, raises or aborts: what can fail returns a
 * status.
 */
#ifndef VDMRT_DEVICE_H
#define VDMRT_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VDMRT_DEVICE_ALIGNMENT 64 /* of every allocation, at least */

/*
 * What a call answered: 0, one of the kinds below, or the kind VDMRT_ERROR_DRIVER with the driver's function
 * (see vdmrt_cuda_call_name) and its code packed beside it. One integer, so that no thread can read another's
 * failure.
 */
typedef uint32_t vdmrt_status;

#define VDMRT_OK                0u
#define VDMRT_ERROR_MEMORY      1u /* the host does not have enough memory; nothing was allocated */
#define VDMRT_ERROR_RANGE       2u /* a range runs past the end of the address space; nothing was touched */
#define VDMRT_ERROR_DRIVER      3u /* a call of the CUDA driver failed */
#define VDMRT_ERROR_NO_DRIVER   4u /* no CUDA driver is installed */
#define VDMRT_ERROR_OLD_DRIVER  5u /* the CUDA driver is older than VDMRT_CUDA_OLDEST */
#define VDMRT_ERROR_INDEX       6u /* the driver sees no GPU of that index */
#define VDMRT_ERROR_UNSUPPORTED 7u /* this device cannot do that */
#define VDMRT_ERROR_EMPTY       8u /* a capture recorded no work */
#define VDMRT_ERROR_CANCELLED   9u /* the caller asked to stop */

static inline vdmrt_status
vdmrt_status_of_driver(unsigned call, unsigned code)
{
    return VDMRT_ERROR_DRIVER | call << 8 | code << 16;
}

static inline unsigned
vdmrt_status_kind(vdmrt_status status)
{
    return status & 0xff;
}

static inline unsigned
vdmrt_status_call(vdmrt_status status)
{
    return status >> 8 & 0xff;
}

static inline unsigned
vdmrt_status_code(vdmrt_status status)
{
    return status >> 16;
}

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

typedef enum vdmrt_direction {
    VDMRT_WITHIN,   /* both addresses are the device's */
    VDMRT_UPLOAD,   /* from the host to the device */
    VDMRT_DOWNLOAD, /* from the device to the host */
} vdmrt_direction;

typedef struct vdmrt_memory_info {
    size_t free_nbytes;
    size_t total_nbytes;
} vdmrt_memory_info;

/*
 * What a device is. Callers use the vdmrt_device_* functions below, which check what holds for every device;
 * an implementation writes these, with the arguments checked already.
 */
typedef struct vdmrt_device_table {
    const char *kind; /* "host", "cuda" */
    vdmrt_status (*allocate)(void *context, size_t nbytes, uintptr_t *address);
    vdmrt_status (*release)(void *context, uintptr_t address);
    vdmrt_status (*allocate_pinned)(void *context, size_t nbytes, uintptr_t *address);
    vdmrt_status (*release_pinned)(void *context, uintptr_t address);
    vdmrt_status (*copy)(void *context, uintptr_t destination, uintptr_t source, size_t nbytes,
                         vdmrt_direction direction);
    vdmrt_status (*copy_3d)(void *context, vdmrt_planes destination, vdmrt_planes source,
                            vdmrt_extent extent);
    vdmrt_status (*zero_2d)(void *context, uintptr_t address, size_t pitch, size_t width, size_t height);
    vdmrt_status (*synchronize)(void *context);
    vdmrt_status (*synchronize_stream)(void *context,
                                       uintptr_t stream); /* (optional) anybody's; NULL: there are none */
    vdmrt_status (*locate)(void *context, uintptr_t address, int *index); /* (optional) NULL: all is here */
    vdmrt_status (*memory_info)(void *context, vdmrt_memory_info *info);
    vdmrt_status (*activate)(void *context);
    /* Around a loop on one thread, so that none of its calls need look after the driver's state of the
     * thread. */
    vdmrt_status (*enter)(void *context);
    vdmrt_status (*leave)(void *context);
    vdmrt_status (*create_event)(void *context, uintptr_t *event);
    vdmrt_status (*destroy_event)(void *context, uintptr_t event);
    vdmrt_status (*record)(void *context, uintptr_t event);
    vdmrt_status (*query)(void *context, uintptr_t event, bool *passed); /* between enter and leave */
    vdmrt_status (*elapsed)(void *context, uintptr_t first, uintptr_t last, double *milliseconds);
    /* (optional, all of them or none) NULL: nothing can be captured */
    vdmrt_status (*begin_capture)(void *context);
    vdmrt_status (*end_capture)(void *context, uintptr_t *graph, size_t *nodes);
    vdmrt_status (*abort_capture)(void *context);
    vdmrt_status (*launch)(void *context, uintptr_t graph, uintptr_t event); /* and record; as query */
    vdmrt_status (*destroy_graph)(void *context, uintptr_t graph);
    vdmrt_status (*destroy)(void *context); /* (optional) NULL: the context needs no undoing */
} vdmrt_device_table;

/* A table with what its functions need. Small enough to be stored and passed by value. */
typedef struct vdmrt_device {
    const vdmrt_device_table *table;
    void *context;    /* owned */
    int index;        /* of the GPU; 0 on the host */
    uintptr_t stream; /* CUstream; 0 on the host */
} vdmrt_device;

/* Returns the host: memory of the C library, copies by the calling thread, complete on return. */
vdmrt_device vdmrt_device_host(void);

/*
 * Opens a new queue on GPU `index`: a non-blocking stream in the primary context, which is shared with
 * all others in the process. Loads the driver at the first call. On failure *device is untouched.
 */
vdmrt_status vdmrt_device_cuda(int index, vdmrt_device *device);

/* Releases a device after its memory, events and graphs have been released. */
vdmrt_status vdmrt_device_destroy(vdmrt_device device);

/*
 * Allocates `nbytes` > 0 bytes, all zero, aligned to VDMRT_DEVICE_ALIGNMENT, and stores where they start.
 * The caller gives them back by vdmrt_device_release. On failure *address is 0.
 */
vdmrt_status vdmrt_device_allocate(vdmrt_device device, size_t nbytes, uintptr_t *address);

/* Gives back what vdmrt_device_allocate of this device gave, or 0, once the queue has passed all work that
 * was enqueued before. A failure too ends the allocation. */
vdmrt_status vdmrt_device_release(vdmrt_device device, uintptr_t address);

/* As allocate and release, for host memory from and to which the device copies without a detour. */
vdmrt_status vdmrt_device_allocate_pinned(vdmrt_device device, size_t nbytes, uintptr_t *address);
vdmrt_status vdmrt_device_release_pinned(vdmrt_device device, uintptr_t address);

/* Copies `nbytes` bytes. Host memory must stay as it is until the queue has passed the copy. */
vdmrt_status vdmrt_device_copy(vdmrt_device device, uintptr_t destination, uintptr_t source, size_t nbytes,
                               vdmrt_direction direction);

/* Copies `extent` from `source` to `destination`; the two must not overlap. */
vdmrt_status vdmrt_device_copy_3d(vdmrt_device device, vdmrt_planes destination, vdmrt_planes source,
                                  vdmrt_extent extent);

/* Sets `height` rows of `width` bytes, `pitch` >= width bytes apart, to zero. */
vdmrt_status vdmrt_device_zero_2d(vdmrt_device device, uintptr_t address, size_t pitch, size_t width,
                                  size_t height);

/* Ends a capture and stores what it recorded; the caller destroys it. On failure *graph is 0. */
vdmrt_status vdmrt_device_end_capture(vdmrt_device device, uintptr_t *graph, size_t *nodes);

/* Waits until the queue is empty. */
vdmrt_status vdmrt_device_synchronize(vdmrt_device device);

#endif
