/* Device and pinned memory, both of it the host's. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "context.h"
#include "machine.h"
#include "stream.h"

#define ALIGNMENT     ((size_t)512)
#define GUARD_NBYTES  ALIGNMENT /* on both sides, checked when the memory is freed */
#define GUARD         0xC3
#define NEVER_WRITTEN 0xA5
#define FREED         0xDD

typedef struct allocation {
    struct allocation *next;
    unsigned char *block;   /* guard, memory, guard */
    unsigned char *address; /* block + GUARD_NBYTES */
    size_t nbytes;
    int device;
    bool pinned;
    bool withheld;
} allocation;

static allocation *allocations;

static allocation *
find(const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (allocation *found = allocations; found != NULL; found = found->next) {
        if (at >= (uintptr_t)found->address && at - (uintptr_t)found->address < found->nbytes) {
            return found;
        }
    }
    return NULL;
}

static bool
touches_any(const unsigned char *address, size_t nbytes)
{
    for (allocation *found = allocations; found != NULL; found = found->next) {
        if (address < found->address + found->nbytes && found->address < address + nbytes) {
            return true;
        }
    }
    return false;
}

/* Returns what is wrong with the range, or NULL. */
static const char *
find_fault(const unsigned char *address, size_t nbytes, memory_side side)
{
    const allocation *found = find(address);
    if (found == NULL) {
        if (side == MEMORY_DEVICE) {
            return "begins in no device allocation";
        }
        return touches_any(address, nbytes) ? "runs from host memory into an allocation" : NULL;
    }
    if (found->pinned ? side == MEMORY_DEVICE : side == MEMORY_HOST) {
        return found->pinned ? "is pinned memory, not of the device" : "is device memory, not of the host";
    }
    size_t before = (size_t)(address - found->address);
    return nbytes > found->nbytes - before ? "runs over the end of its allocation" : NULL;
}

bool
memory_check(const void *address, size_t nbytes, memory_side side)
{
    if (nbytes == 0) {
        return true;
    }
    const char *fault = address == NULL ? "is NULL" : find_fault(address, nbytes, side);
    if (fault != NULL) {
        machine_violation("%zu bytes at %p: the range %s", nbytes, address, fault);
    }
    return fault == NULL;
}

bool
memory_is_device(const void *address)
{
    const allocation *found = find(address);
    return found != NULL && !found->pinned;
}

bool
memory_is_pinned(const void *address)
{
    const allocation *found = find(address);
    return found != NULL && found->pinned;
}

uint64_t
memory_count(int device)
{
    uint64_t count = 0;
    for (const allocation *found = allocations; found != NULL; found = found->next) {
        count += found->device == device && !found->withheld;
    }
    return count;
}

void
memory_count_live(fake_cuda_live *live)
{
    for (const allocation *found = allocations; found != NULL; found = found->next) {
        live->withheld += found->withheld;
        uint64_t *count = found->pinned ? &live->pinned : &live->allocations;
        uint64_t *nbytes = found->pinned ? &live->pinned_nbytes : &live->allocated_nbytes;
        *count += !found->withheld;
        *nbytes += found->withheld ? 0 : found->nbytes;
    }
}

void
memory_reset(void)
{
    while (allocations != NULL) {
        allocation *gone = allocations;
        allocations = gone->next;
        free(gone);
    }
}

static size_t
block_nbytes(size_t nbytes)
{
    return 2 * GUARD_NBYTES + (nbytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Fills the block so that unwritten memory and writes over both ends show. */
static unsigned char *
create_block(size_t nbytes)
{
    unsigned char *block = nbytes > SIZE_MAX / 2 ? NULL : aligned_alloc(ALIGNMENT, block_nbytes(nbytes));
    if (block != NULL) {
        memset(block, GUARD, block_nbytes(nbytes));
        memset(block + GUARD_NBYTES, NEVER_WRITTEN, nbytes);
    }
    return block;
}

static bool
guards_are_whole(const allocation *checked)
{
    const unsigned char *end = checked->block + block_nbytes(checked->nbytes);
    for (const unsigned char *at = checked->block; at < end; at++) {
        at = at == checked->address ? at + checked->nbytes : at;
        if (*at != GUARD) {
            return false;
        }
    }
    return true;
}

static CUresult
allocate(void **address, size_t nbytes, bool pinned)
{
    if (address == NULL || nbytes == 0) {
        machine_violation("an allocation of %zu bytes at %p", nbytes, (void *)address);
        return CUDA_ERROR_INVALID_VALUE;
    }
    gpu *owner = &the_machine.gpus[context_device()];
    if (!pinned && nbytes > owner->memory_nbytes - owner->allocated_nbytes) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    unsigned char *block = create_block(nbytes);
    allocation *created = malloc(sizeof *created);
    if (block == NULL || created == NULL) {
        free(block);
        free(created);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *created = (allocation){.next = allocations,
                            .block = block,
                            .address = block + GUARD_NBYTES,
                            .nbytes = nbytes,
                            .device = context_device(),
                            .pinned = pinned};
    allocations = created;
    owner->allocated_nbytes += pinned ? 0 : nbytes;
    *address = created->address;
    return CUDA_SUCCESS;
}

/* Returns the allocation that begins there, or NULL after noting a violation. */
static allocation *
find_start(const void *address, bool pinned)
{
    allocation *found = find(address);
    if (found == NULL || found->address != address || found->pinned != pinned) {
        machine_violation("%p is the start of no %s", address,
                          pinned ? "pinned memory" : "device allocation");
        return NULL;
    }
    return found;
}

static void
unlink_allocation(const allocation *gone)
{
    allocation **link = &allocations;
    while (*link != gone) {
        link = &(*link)->next;
    }
    *link = gone->next;
}

static CUresult
release(void *address, bool pinned)
{
    allocation *gone = find_start(address, pinned);
    if (gone == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (stream_may_use(gone->device, gone->address, gone->nbytes)) {
        machine_violation("%zu bytes at %p are freed while a stream may still use them", gone->nbytes,
                          address);
        stream_finish_all();
        gone = find_start(address, pinned); /* a host function may have run meanwhile, without the lock */
    }
    if (gone == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!guards_are_whole(gone)) {
        machine_violation("something wrote over an end of the %zu bytes at %p", gone->nbytes, address);
    }
    unlink_allocation(gone);
    the_machine.gpus[gone->device].allocated_nbytes -= pinned ? 0 : gone->nbytes;
    memset(gone->block, FREED, block_nbytes(gone->nbytes));
    free(gone->block);
    free(gone);
    return CUDA_SUCCESS;
}

/* Marks memory whose release an injected failure refused. */
static void
withhold(const void *address)
{
    allocation *kept = find(address);
    if (call_was_injected() && kept != NULL) {
        kept->withheld = true;
    }
}

CUresult
cuMemGetInfo_v2(size_t *free_nbytes, size_t *total_nbytes)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT);
    if (code == CUDA_SUCCESS && (free_nbytes == NULL || total_nbytes == NULL)) {
        code = CUDA_ERROR_INVALID_VALUE;
    } else if (code == CUDA_SUCCESS) {
        const gpu *asked = &the_machine.gpus[context_device()];
        *free_nbytes = asked->memory_nbytes - asked->allocated_nbytes;
        *total_nbytes = asked->memory_nbytes;
    }
    return call_end(code);
}

CUresult
cuMemAlloc_v2(CUdeviceptr *address, size_t nbytes)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT | CALL_UNSAFE_IN_CAPTURE);
    if (code == CUDA_SUCCESS) {
        void *allocated = NULL;
        code = allocate(address == NULL ? NULL : &allocated, nbytes, false);
        if (code == CUDA_SUCCESS) {
            *address = (CUdeviceptr)(uintptr_t)allocated;
        }
    }
    return call_end(code);
}

CUresult
cuMemFree_v2(CUdeviceptr address)
{
    void *freed = (void *)(uintptr_t)address;
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT | CALL_UNSAFE_IN_CAPTURE | CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        code = release(freed, false);
    } else {
        withhold(freed);
    }
    return call_end(code);
}

CUresult
cuMemHostAlloc(void **address, size_t nbytes, unsigned int flags)
{
    (void)flags; /* portable, mapped or write-combined: here it is all one memory */
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT | CALL_UNSAFE_IN_CAPTURE);
    return call_end(code == CUDA_SUCCESS ? allocate(address, nbytes, true) : code);
}

CUresult
cuMemFreeHost(void *address)
{
    CUresult code = call_begin(__func__, CALL_NEEDS_CONTEXT | CALL_UNSAFE_IN_CAPTURE | CALL_OUTLIVES_FAILURE);
    if (code == CUDA_SUCCESS) {
        code = release(address, true);
    } else {
        withhold(address);
    }
    return call_end(code);
}

static CUresult
get_attribute(void *value, CUpointer_attribute attribute, const allocation *asked, CUdeviceptr address)
{
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)value = context_of_device(asked->device);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned int *)value = asked->pinned ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)value = address;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        *(void **)value = asked->pinned ? (void *)(uintptr_t)address : NULL;
        return asked->pinned ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)value = asked->device;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)value = (CUdeviceptr)(uintptr_t)asked->address;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)value = asked->nbytes;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult
cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address)
{
    CUresult code = call_begin(__func__, CALL_PLAIN);
    if (code == CUDA_SUCCESS) {
        const allocation *asked = find((void *)(uintptr_t)address);
        bool known = value != NULL && asked != NULL;
        code = known ? get_attribute(value, attribute, asked, address) : CUDA_ERROR_INVALID_VALUE;
    }
    return call_end(code);
}
