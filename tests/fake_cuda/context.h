/* Primary contexts and each thread's stack of current ones. All functions need the lock. */
#ifndef FAKE_CUDA_CONTEXT_H
#define FAKE_CUDA_CONTEXT_H

#include "abi.h"

/* Returns CUDA_SUCCESS if the calling thread has a current context that is retained. */
CUresult context_check(void);

/* Returns the device of the current context, or -1. */
int context_device(void);

/* Returns the handle of the device's primary context. */
CUcontext context_of_device(int device);

/* Returns how many contexts are on the calling thread's stack. */
uint64_t context_depth(void);

#endif
