/*
 * What the fake driver exports, in the driver's own binary interface: types, codes and functions.
 *
 * Names, numbers and layouts are those of the CUDA driver API; nothing here needs a CUDA toolkit.
 */
#ifndef FAKE_CUDA_ABI_H
#define FAKE_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct CUarray_st *CUarray;
typedef void (*CUhostFn)(void *data);

typedef struct CUuuid_st {
    char bytes[16];
} CUuuid;

typedef enum CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_ILLEGAL_STATE = 401,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_NOT_PERMITTED = 800,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
    CUDA_ERROR_CAPTURED_EVENT = 907,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
    CUDA_ERROR_UNKNOWN = 999,
} CUresult;

typedef enum CUmemorytype {
    CU_MEMORYTYPE_HOST = 1,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_MEMORYTYPE_ARRAY = 3,
    CU_MEMORYTYPE_UNIFIED = 4,
} CUmemorytype;

typedef enum CUdevice_attribute {
    CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10,
    CU_DEVICE_ATTRIBUTE_MAX_PITCH = 11,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18,
    CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
    CU_DEVICE_ATTRIBUTE_COMPUTE_MODE = 20,
    CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS = 31,
    CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT = 40,
    CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY = 83,
    CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 115,
} CUdevice_attribute;

typedef enum CUpointer_attribute {
    CU_POINTER_ATTRIBUTE_CONTEXT = 1,
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
    CU_POINTER_ATTRIBUTE_DEVICE_POINTER = 3,
    CU_POINTER_ATTRIBUTE_HOST_POINTER = 4,
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
    CU_POINTER_ATTRIBUTE_RANGE_START_ADDR = 11,
    CU_POINTER_ATTRIBUTE_RANGE_SIZE = 12,
} CUpointer_attribute;

typedef enum CUstreamCaptureStatus {
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CU_STREAM_CAPTURE_STATUS_ACTIVE = 1,
    CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2,
} CUstreamCaptureStatus;

typedef enum CUstreamCaptureMode {
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
} CUstreamCaptureMode;

typedef enum CUdriverProcAddressQueryResult {
    CU_GET_PROC_ADDRESS_SUCCESS = 0,
    CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND = 1,
    CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT = 2,
} CUdriverProcAddressQueryResult;

#define CU_STREAM_LEGACY        ((CUstream)0x1)
#define CU_STREAM_PER_THREAD    ((CUstream)0x2)
#define CU_STREAM_NON_BLOCKING  0x1u
#define CU_EVENT_BLOCKING_SYNC  0x1u
#define CU_EVENT_DISABLE_TIMING 0x2u

/* Bytes, rows and slices; the address of a side is base + (Z * Height + Y) * Pitch + XInBytes. */
typedef struct CUDA_MEMCPY3D_st {
    size_t srcXInBytes;
    size_t srcY;
    size_t srcZ;
    size_t srcLOD;
    CUmemorytype srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    CUarray srcArray;
    void *reserved0;
    size_t srcPitch;
    size_t srcHeight;
    size_t dstXInBytes;
    size_t dstY;
    size_t dstZ;
    size_t dstLOD;
    CUmemorytype dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    CUarray dstArray;
    void *reserved1;
    size_t dstPitch;
    size_t dstHeight;
    size_t WidthInBytes;
    size_t Height;
    size_t Depth;
} CUDA_MEMCPY3D;

EXPORTED CUresult cuInit(unsigned int flags);
EXPORTED CUresult cuDriverGetVersion(int *version);
EXPORTED CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                                      CUdriverProcAddressQueryResult *status);
EXPORTED CUresult cuGetErrorName(CUresult code, const char **name);
EXPORTED CUresult cuGetErrorString(CUresult code, const char **text);

EXPORTED CUresult cuDeviceGetCount(int *count);
EXPORTED CUresult cuDeviceGet(CUdevice *device, int ordinal);
EXPORTED CUresult cuDeviceGetName(char *name, int length, CUdevice device);
EXPORTED CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device);
EXPORTED CUresult cuDeviceTotalMem_v2(size_t *nbytes, CUdevice device);
EXPORTED CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device);
EXPORTED CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device);

EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device);
EXPORTED CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
EXPORTED CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active);
EXPORTED CUresult cuCtxGetCurrent(CUcontext *context);
EXPORTED CUresult cuCtxSetCurrent(CUcontext context);
EXPORTED CUresult cuCtxPushCurrent_v2(CUcontext context);
EXPORTED CUresult cuCtxPopCurrent_v2(CUcontext *context);
EXPORTED CUresult cuCtxGetDevice(CUdevice *device);
EXPORTED CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context);
EXPORTED CUresult cuCtxSynchronize(void);
EXPORTED CUresult cuCtxSynchronize_v2(CUcontext context);

EXPORTED CUresult cuMemGetInfo_v2(size_t *free_nbytes, size_t *total_nbytes);
EXPORTED CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t nbytes);
EXPORTED CUresult cuMemFree_v2(CUdeviceptr address);
EXPORTED CUresult cuMemHostAlloc(void **address, size_t nbytes, unsigned int flags);
EXPORTED CUresult cuMemFreeHost(void *address);
EXPORTED CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address);

EXPORTED CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t nbytes, CUstream stream);
EXPORTED CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t nbytes, CUstream stream);
EXPORTED CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t nbytes, CUstream stream);
EXPORTED CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *copy, CUstream stream);
EXPORTED CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t nbytes, CUstream stream);
EXPORTED CUresult cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char value, size_t width,
                                    size_t height, CUstream stream);

EXPORTED CUresult cuStreamCreate(CUstream *stream, unsigned int flags);
EXPORTED CUresult cuStreamDestroy_v2(CUstream stream);
EXPORTED CUresult cuStreamSynchronize(CUstream stream);
EXPORTED CUresult cuStreamQuery(CUstream stream);
EXPORTED CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags);
EXPORTED CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data);
EXPORTED CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode);
EXPORTED CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph);
EXPORTED CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status);

EXPORTED CUresult cuEventCreate(CUevent *event, unsigned int flags);
EXPORTED CUresult cuEventDestroy_v2(CUevent event);
EXPORTED CUresult cuEventRecord(CUevent event, CUstream stream);
EXPORTED CUresult cuEventQuery(CUevent event);
EXPORTED CUresult cuEventSynchronize(CUevent event);
EXPORTED CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);
EXPORTED CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end);

EXPORTED CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count);
EXPORTED CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags);
EXPORTED CUresult cuGraphUpload(CUgraphExec exec, CUstream stream);
EXPORTED CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream);
EXPORTED CUresult cuGraphExecDestroy(CUgraphExec exec);
EXPORTED CUresult cuGraphDestroy(CUgraph graph);

#endif
