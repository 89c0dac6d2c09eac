/* Allocations: where they lie, whose they are, and what may touch which bytes. All functions need the lock.
 */
#ifndef FAKE_CUDA_MEMORY_H
#define FAKE_CUDA_MEMORY_H

#include <stdbool.h>

#include "abi.h"
#include "control.h"

/* What a side of a copy may lie in. */
typedef enum memory_side { MEMORY_DEVICE, MEMORY_HOST, MEMORY_ANY } memory_side;

/*
 * Says whether `nbytes` at `address` lie where they may: all in one allocation of the device, or in host
 * memory that touches no allocation or lies in one pinned one. Notes a violation if not.
 */
bool memory_check(const void *address, size_t nbytes, memory_side side);

/* Says whether the address lies in a device allocation, or in pinned memory. */
bool memory_is_device(const void *address);
bool memory_is_pinned(const void *address);

/* Returns how many allocations of the device exist that no injected failure kept. */
uint64_t memory_count(int device);

/* Adds allocations, pinned memory and what is withheld of them. */
void memory_count_live(fake_cuda_live *live);

/* Forgets all allocations; their memory is never used again, so that a late free cannot hit a newer one. */
void memory_reset(void);

#endif
