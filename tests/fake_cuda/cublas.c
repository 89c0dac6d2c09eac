/*
 * The four functions of cuBLAS that the profiler's matrix product takes, beside the driver's in one library.
 *
 * They hold their callers to the documented order and arguments, and a product is worked out in order on its stream, as
 * a host function of the driver. Column-major as in cuBLAS; neither side transposed; float32 or float16 with sums in
 * float32.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "abi.h"

typedef enum cublas_status {
    CUBLAS_SUCCESS = 0,
    CUBLAS_NOT_INITIALIZED = 1,
    CUBLAS_ALLOC_FAILED = 3,
    CUBLAS_INVALID_VALUE = 7,
    CUBLAS_EXECUTION_FAILED = 13,
    CUBLAS_NOT_SUPPORTED = 15,
} cublas_status;

enum { R_32F = 0, R_16F = 2, COMPUTE_32F = 68, GEMM_DEFAULT = -1 };

#define MAGIC 0x5ca1ab1eu

typedef struct handle {
    unsigned magic;
    CUstream stream;
} handle;

typedef struct product {
    int rows, columns, inner, type;
    float alpha, beta;
    const void *left, *right;
    int left_stride, right_stride, out_stride;
    void *out;
} product;

static atomic_int live;

/* Handles that were created and not destroyed. */
EXPORTED int fake_cublas_live(void);

EXPORTED int cublasCreate_v2(handle **out);
EXPORTED int cublasDestroy_v2(handle *given);
EXPORTED int cublasSetStream_v2(handle *given, CUstream stream);
EXPORTED int cublasGemmEx(handle *given, int left_form, int right_form, int rows, int columns, int inner,
                          const void *alpha, const void *left, int left_type, int left_stride, const void *right,
                          int right_type, int right_stride, const void *beta, void *out, int out_type,
                          int out_stride, int compute_type, int algorithm);

int
fake_cublas_live(void)
{
    return atomic_load(&live);
}

int
cublasCreate_v2(handle **out)
{
    CUcontext current = NULL;
    if (out == NULL) {
        return CUBLAS_INVALID_VALUE;
    }
    *out = NULL;
    if (cuCtxGetCurrent(&current) != CUDA_SUCCESS || current == NULL) {
        return CUBLAS_NOT_INITIALIZED;
    }
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return CUBLAS_ALLOC_FAILED;
    }
    (*out)->magic = MAGIC;
    atomic_fetch_add(&live, 1);
    return CUBLAS_SUCCESS;
}

int
cublasDestroy_v2(handle *given)
{
    if (given == NULL || given->magic != MAGIC) {
        return CUBLAS_NOT_INITIALIZED;
    }
    given->magic = 0;
    free(given);
    atomic_fetch_sub(&live, 1);
    return CUBLAS_SUCCESS;
}

int
cublasSetStream_v2(handle *given, CUstream stream)
{
    if (given == NULL || given->magic != MAGIC) {
        return CUBLAS_NOT_INITIALIZED;
    }
    given->stream = stream;
    return CUBLAS_SUCCESS;
}

static float
read_element(const void *matrix, int type, size_t at)
{
    return type == R_32F ? ((const float *)matrix)[at] : (float)((const _Float16 *)matrix)[at];
}

static void
write_element(void *matrix, int type, size_t at, float value)
{
    if (type == R_32F) {
        ((float *)matrix)[at] = value;
    } else {
        ((_Float16 *)matrix)[at] = (_Float16)value;
    }
}

static void
multiply(void *data)
{
    product *p = data;
    for (int column = 0; column < p->columns; column++) {
        for (int row = 0; row < p->rows; row++) {
            float sum = 0;
            for (int k = 0; k < p->inner; k++) {
                sum += read_element(p->left, p->type, (size_t)k * (size_t)p->left_stride + (size_t)row) *
                       read_element(p->right, p->type, (size_t)column * (size_t)p->right_stride + (size_t)k);
            }
            size_t at = (size_t)column * (size_t)p->out_stride + (size_t)row;
            float kept = p->beta == 0 ? 0 : p->beta * read_element(p->out, p->type, at);
            write_element(p->out, p->type, at, p->alpha * sum + kept);
        }
    }
    free(p);
}

int
cublasGemmEx(handle *given, int left_form, int right_form, int rows, int columns, int inner, const void *alpha,
             const void *left, int left_type, int left_stride, const void *right, int right_type, int right_stride,
             const void *beta, void *out, int out_type, int out_stride, int compute_type, int algorithm)
{
    if (given == NULL || given->magic != MAGIC) {
        return CUBLAS_NOT_INITIALIZED;
    }
    if (rows < 0 || columns < 0 || inner < 0 || left_stride < rows || right_stride < inner || out_stride < rows ||
        alpha == NULL || beta == NULL || left == NULL || right == NULL || out == NULL) {
        return CUBLAS_INVALID_VALUE;
    }
    if (left_form != 0 || right_form != 0 || left_type != right_type || left_type != out_type ||
        (left_type != R_32F && left_type != R_16F) || compute_type != COMPUTE_32F || algorithm != GEMM_DEFAULT) {
        return CUBLAS_NOT_SUPPORTED;
    }
    product *p = malloc(sizeof *p);
    if (p == NULL) {
        return CUBLAS_ALLOC_FAILED;
    }
    *p = (product){rows, columns, inner, left_type, *(const float *)alpha, *(const float *)beta, left, right,
                   left_stride, right_stride, out_stride, out};
    if (cuLaunchHostFunc(given->stream, multiply, p) != CUDA_SUCCESS) {
        free(p);
        return CUBLAS_EXECUTION_FAILED;
    }
    return CUBLAS_SUCCESS;
}
