/*
 * The one machine that the fake driver plays: its lock, its devices, its handles and what was done wrong on
 * it.
 *
 * All functions need the lock.
 */
#ifndef FAKE_CUDA_MACHINE_H
#define FAKE_CUDA_MACHINE_H

#include <pthread.h>
#include <stdbool.h>

#include "abi.h"

#define MACHINE_MAX_DEVICES    8
#define MACHINE_MAX_VIOLATIONS 256

typedef enum object_kind { OBJECT_STREAM, OBJECT_EVENT, OBJECT_GRAPH, OBJECT_EXEC, OBJECT_KINDS } object_kind;

/* First member of everything that has a handle. */
typedef struct object {
    object_kind kind;
    int device;
    bool implicit; /* a default stream: nobody has to destroy it */
    bool withheld; /* an injected failure kept it from being destroyed */
    uintptr_t handle;
    void (*clear)(void *cleared); /* drops what it holds; NULL: nothing */
    struct object *next_gone;
} object;

#define MACHINE_NAME_NBYTES 64

typedef struct gpu {
    char name[MACHINE_NAME_NBYTES]; /* empty: that of all fake GPUs */
    size_t memory_nbytes;
    size_t allocated_nbytes;
    uint64_t retained;
    uint64_t withheld; /* releases that an injected failure refused */
} gpu;

typedef struct machine {
    pthread_mutex_t lock;
    pthread_cond_t progress; /* a stream has run work */
    unsigned generation;     /* counts fake_cuda_enable and _disable; part of every handle */
    bool enabled;
    bool initialized;
    int driver_version;
    int compute_capability; /* 10 * major + minor, of every GPU */
    int device_count;
    unsigned lag;
    gpu gpus[MACHINE_MAX_DEVICES];
    object **objects; /* by serial number; NULL where destroyed */
    size_t object_count;
    size_t object_capacity;
    char *violations[MACHINE_MAX_VIOLATIONS];
    size_t violation_count;
} machine;

extern machine the_machine;

/* Drops everything and starts the next generation. */
void machine_reset(int devices, size_t memory_nbytes);

/* Notes a fault of the caller: the running call's name and the sentence. */
__attribute__((format(printf, 1, 2))) void machine_violation(const char *format, ...);

/* Returns a zeroed object of `nbytes` on `device` with a handle that was never used before, or NULL. */
void *object_create(object_kind kind, int device, size_t nbytes);

/* Returns the object, or NULL after noting a violation; handles of an earlier generation are refused in
 * silence. */
void *object_find(object_kind kind, const void *handle);

/* Returns the next object of the kind after `previous`, or the first if NULL; NULL after the last. */
void *object_next(object_kind kind, const void *previous);

/* Marks the object of a release that an injected failure refused; in silence if there is none. */
void object_withhold(object_kind kind, const void *handle);

/* Forgets the handle and drops what the object holds; its own few bytes stay, for threads that still look at
 * it. */
void object_destroy(void *destroyed);

#endif
