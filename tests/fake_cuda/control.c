/* The switches of the machine; those of the log and of failures are in call.c. */
#include "control.h"

#include <stdio.h>

#include "call.h"
#include "context.h"
#include "machine.h"
#include "memory.h"
#include "text.h"

static void
reset(int devices, uint64_t memory_nbytes)
{
    pthread_mutex_lock(&the_machine.lock);
    machine_reset(devices < MACHINE_MAX_DEVICES ? devices : MACHINE_MAX_DEVICES, (size_t)memory_nbytes);
    call_reset();
    pthread_mutex_unlock(&the_machine.lock);
}

void
fake_cuda_enable(int devices, uint64_t memory_nbytes)
{
    reset(devices, memory_nbytes);
}

void
fake_cuda_disable(void)
{
    reset(0, 0);
}

void
fake_cuda_driver_version(int version)
{
    pthread_mutex_lock(&the_machine.lock);
    the_machine.driver_version = version;
    pthread_mutex_unlock(&the_machine.lock);
}

void
fake_cuda_compute_capability(int capability)
{
    pthread_mutex_lock(&the_machine.lock);
    the_machine.compute_capability = capability;
    pthread_mutex_unlock(&the_machine.lock);
}

void
fake_cuda_rename(int device, const char *name)
{
    pthread_mutex_lock(&the_machine.lock);
    if (device >= 0 && device < the_machine.device_count) {
        snprintf(the_machine.gpus[device].name, MACHINE_NAME_NBYTES, "%s", name);
    }
    pthread_mutex_unlock(&the_machine.lock);
}

void
fake_cuda_lag(unsigned int polls)
{
    pthread_mutex_lock(&the_machine.lock);
    the_machine.lag = polls;
    pthread_mutex_unlock(&the_machine.lock);
}

static void
count_objects(object_kind kind, uint64_t *count, uint64_t *withheld)
{
    for (const object *found = object_next(kind, NULL); found != NULL; found = object_next(kind, found)) {
        *count += !found->withheld && !found->implicit;
        *withheld += found->withheld;
    }
}

void
fake_cuda_count_live(fake_cuda_live *live)
{
    pthread_mutex_lock(&the_machine.lock);
    *live = (fake_cuda_live){.current = context_depth()};
    memory_count_live(live);
    count_objects(OBJECT_STREAM, &live->streams, &live->withheld);
    count_objects(OBJECT_EVENT, &live->events, &live->withheld);
    count_objects(OBJECT_GRAPH, &live->graphs, &live->withheld);
    count_objects(OBJECT_EXEC, &live->graph_execs, &live->withheld);
    for (int index = 0; index < the_machine.device_count; index++) {
        const gpu *counted = &the_machine.gpus[index];
        live->contexts += counted->retained - counted->withheld;
        live->withheld += counted->withheld;
    }
    pthread_mutex_unlock(&the_machine.lock);
}

size_t
fake_cuda_violations(char *text, size_t size)
{
    pthread_mutex_lock(&the_machine.lock);
    text_writer writer = {.text = text, .size = size};
    for (size_t index = 0; index < the_machine.violation_count; index++) {
        text_add(&writer, "%s\n", the_machine.violations[index]);
    }
    pthread_mutex_unlock(&the_machine.lock);
    return writer.length;
}
