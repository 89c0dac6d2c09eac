/*
 * The functions of NVIDIA's driver that we call, found at run time: nothing of CUDA is needed to build.
 *
 * Types and numbers are those of the CUDA Driver API (https://docs.nvidia.com/cuda/cuda-driver-api/); only
 * what is used is declared.
 */
#ifndef VDMRT_CUDA_DRIVER_H
#define VDMRT_CUDA_DRIVER_H

#include <stddef.h>

#include "device.h"

#define VDMRT_CUDA_OLDEST 11040 /* cuGraphInstantiateWithFlags; as cuDriverGetVersion counts */

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_NOT_READY = 600,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_MEMHOSTALLOC_PORTABLE = 1,
    CU_STREAM_NON_BLOCKING = 1,
    CU_EVENT_DEFAULT = 0,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
};

typedef struct CUDA_MEMCPY3D {
    size_t srcXInBytes, srcY, srcZ, srcLOD;
    unsigned srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    void *srcArray, *reserved0;
    size_t srcPitch, srcHeight;
    size_t dstXInBytes, dstY, dstZ, dstLOD;
    unsigned dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    void *dstArray, *reserved1;
    size_t dstPitch, dstHeight;
    size_t WidthInBytes, Height, Depth;
} CUDA_MEMCPY3D;

/* X(field, symbol, arguments): the field says what we mean, the symbol which version of it we call. */
#define VDMRT_CUDA_FUNCTIONS(X)                                                                              \
    X(init, cuInit, (unsigned))                                                                              \
    X(driver_version, cuDriverGetVersion, (int *))                                                           \
    X(device_count, cuDeviceGetCount, (int *))                                                               \
    X(device_get, cuDeviceGet, (CUdevice *, int))                                                            \
    X(context_retain, cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                     \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (CUdevice))                                             \
    X(context_push, cuCtxPushCurrent_v2, (CUcontext))                                                        \
    X(context_pop, cuCtxPopCurrent_v2, (CUcontext *))                                                        \
    X(context_set, cuCtxSetCurrent, (CUcontext))                                                             \
    X(error_name, cuGetErrorName, (CUresult, const char **))                                                 \
    X(error_string, cuGetErrorString, (CUresult, const char **))                                             \
    X(memory_info, cuMemGetInfo_v2, (size_t *, size_t *))                                                    \
    X(pointer_attribute, cuPointerGetAttribute, (void *, int, CUdeviceptr))                                  \
    X(allocate, cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                      \
    X(release, cuMemFree_v2, (CUdeviceptr))                                                                  \
    X(allocate_pinned, cuMemHostAlloc, (void **, size_t, unsigned))                                          \
    X(release_pinned, cuMemFreeHost, (void *))                                                               \
    X(upload, cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream))                           \
    X(download, cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream))                               \
    X(copy, cuMemcpyDtoDAsync_v2, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                              \
    X(copy_3d, cuMemcpy3DAsync_v2, (const CUDA_MEMCPY3D *, CUstream))                                        \
    X(set, cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream))                                  \
    X(set_2d, cuMemsetD2D8Async, (CUdeviceptr, size_t, unsigned char, size_t, size_t, CUstream))             \
    X(stream_create, cuStreamCreate, (CUstream *, unsigned))                                                 \
    X(stream_destroy, cuStreamDestroy_v2, (CUstream))                                                        \
    X(stream_synchronize, cuStreamSynchronize, (CUstream))                                                   \
    X(begin_capture, cuStreamBeginCapture_v2, (CUstream, int))                                               \
    X(is_capturing, cuStreamIsCapturing, (CUstream, int *))                                                  \
    X(end_capture, cuStreamEndCapture, (CUstream, CUgraph *))                                                \
    X(graph_nodes, cuGraphGetNodes, (CUgraph, void *, size_t *))                                             \
    X(graph_instantiate, cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))          \
    X(graph_destroy, cuGraphDestroy, (CUgraph))                                                              \
    X(graph_upload, cuGraphUpload, (CUgraphExec, CUstream))                                                  \
    X(graph_launch, cuGraphLaunch, (CUgraphExec, CUstream))                                                  \
    X(graph_exec_destroy, cuGraphExecDestroy, (CUgraphExec))                                                 \
    X(event_create, cuEventCreate, (CUevent *, unsigned))                                                    \
    X(event_destroy, cuEventDestroy_v2, (CUevent))                                                           \
    X(event_record, cuEventRecord, (CUevent, CUstream))                                                      \
    X(event_query, cuEventQuery, (CUevent))                                                                  \
    X(event_elapsed, cuEventElapsedTime, (float *, CUevent, CUevent))

typedef struct vdmrt_cuda {
#define VDMRT_CUDA_FIELD(field, symbol, arguments) CUresult(*field) arguments;
    VDMRT_CUDA_FUNCTIONS(VDMRT_CUDA_FIELD)
#undef VDMRT_CUDA_FIELD
} vdmrt_cuda;

/* The place of a function in a status: see vdmrt_status_call. */
enum {
#define VDMRT_CUDA_PLACE(field, symbol, arguments) VDMRT_CUDA_CALL_##field,
    VDMRT_CUDA_FUNCTIONS(VDMRT_CUDA_PLACE)
#undef VDMRT_CUDA_PLACE
};

/*
 * Stores the driver, opened at the first call, and starts it (cuInit). It stays loaded for the life of the
 * process.
 */
vdmrt_status vdmrt_cuda_open(const vdmrt_cuda **cuda);

/* Name of a driver's function by its place, as "cuMemAlloc_v2". */
const char *vdmrt_cuda_call_name(unsigned call);

/* The driver's name of a code, as "CUDA_ERROR_OUT_OF_MEMORY", and its words; "" where it has none. */
const char *vdmrt_cuda_error_name(unsigned code);
const char *vdmrt_cuda_error_words(unsigned code);

/* The driver's version and number of GPUs, as far as they can be asked; else 0. */
int vdmrt_cuda_version(void);
int vdmrt_cuda_device_count(void);

#endif
