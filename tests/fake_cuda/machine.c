/* The machine's handles and violations. */
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "memory.h"

machine the_machine = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .progress = PTHREAD_COND_INITIALIZER, .generation = 1};

static object *gone_objects;

/* A handle is generation, serial number and kind: it never names two objects and is no address of the
 * process. */
static uintptr_t
handle_of(object_kind kind, size_t serial)
{
    return (uintptr_t)the_machine.generation << 48 | (uintptr_t)(serial + 1) << 8 | (uintptr_t)kind;
}

static void
drop_objects(void)
{
    for (size_t serial = 0; serial < the_machine.object_count; serial++) {
        if (the_machine.objects[serial] != NULL) {
            object_destroy(the_machine.objects[serial]);
        }
    }
    the_machine.object_count = 0;
    while (gone_objects != NULL) {
        object *freed = gone_objects;
        gone_objects = freed->next_gone;
        free(freed);
    }
}

static void
drop_violations(void)
{
    for (size_t index = 0; index < the_machine.violation_count; index++) {
        free(the_machine.violations[index]);
    }
    the_machine.violation_count = 0;
}

void
machine_reset(int devices, size_t memory_nbytes)
{
    drop_objects();
    drop_violations();
    memory_reset();
    the_machine.generation++;
    the_machine.enabled = devices > 0;
    the_machine.initialized = false;
    the_machine.driver_version = 12040;
    the_machine.compute_capability = 90;
    the_machine.device_count = devices;
    the_machine.lag = 0;
    for (int index = 0; index < MACHINE_MAX_DEVICES; index++) {
        the_machine.gpus[index] = (gpu){.memory_nbytes = memory_nbytes};
    }
}

void
machine_violation(const char *format, ...)
{
    if (the_machine.violation_count == MACHINE_MAX_VIOLATIONS) {
        return;
    }
    char sentence[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    char line[320];
    snprintf(line, sizeof line, "%s: %s", call_name(), sentence);
    char *kept = strdup(line);
    if (kept != NULL) {
        the_machine.violations[the_machine.violation_count++] = kept;
    }
}

static bool
grow_objects(void)
{
    if (the_machine.object_count < the_machine.object_capacity) {
        return true;
    }
    size_t capacity = 2 * the_machine.object_capacity + 64;
    object **grown = realloc(the_machine.objects, capacity * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    the_machine.objects = grown;
    the_machine.object_capacity = capacity;
    return true;
}

void *
object_create(object_kind kind, int device, size_t nbytes)
{
    object *created = grow_objects() ? calloc(1, nbytes) : NULL;
    if (created == NULL) {
        return NULL;
    }
    size_t serial = the_machine.object_count++;
    *created = (object){.kind = kind, .device = device, .handle = handle_of(kind, serial)};
    the_machine.objects[serial] = created;
    return created;
}

static size_t
serial_of(uintptr_t handle)
{
    return (size_t)(handle >> 8 & 0xFFFFFFFFFF) - 1;
}

static object *
look_up(object_kind kind, uintptr_t handle)
{
    size_t serial = serial_of(handle);
    object *found = serial < the_machine.object_count ? the_machine.objects[serial] : NULL;
    return found != NULL && found->kind == kind && found->handle == handle ? found : NULL;
}

void *
object_find(object_kind kind, const void *handle)
{
    static const char *const nouns[OBJECT_KINDS] = {"a stream", "an event", "a graph", "an executable graph"};
    uintptr_t number = (uintptr_t)handle;
    object *found = look_up(kind, number);
    if (found != NULL) {
        return found;
    }
    unsigned generation = (unsigned)(number >> 48);
    if (generation == 0 || generation >= the_machine.generation) {
        machine_violation("%p is not %s, or no longer", handle, nouns[kind]);
    }
    return NULL;
}

void *
object_next(object_kind kind, const void *previous)
{
    size_t serial = previous == NULL ? 0 : serial_of(((const object *)previous)->handle) + 1;
    for (; serial < the_machine.object_count; serial++) {
        object *found = the_machine.objects[serial];
        if (found != NULL && found->kind == kind) {
            return found;
        }
    }
    return NULL;
}

void
object_withhold(object_kind kind, const void *handle)
{
    object *kept = look_up(kind, (uintptr_t)handle);
    if (kept != NULL) {
        kept->withheld = true;
    }
}

void
object_destroy(void *destroyed)
{
    object *gone = destroyed;
    the_machine.objects[serial_of(gone->handle)] = NULL;
    if (gone->clear != NULL) {
        gone->clear(gone);
    }
    gone->next_gone = gone_objects;
    gone_objects = gone;
}
