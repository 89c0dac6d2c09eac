/* libcuda, opened once. */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vdmrt_cuda driver;      /* written with the lock held, and never again once is_loaded is set */
static bool is_loaded = false; /* with the lock held */

static const char *const NAMES[] = {
#define VDMRT_CUDA_NAME(field, symbol, arguments) #symbol,
    VDMRT_CUDA_FUNCTIONS(VDMRT_CUDA_NAME)
#undef VDMRT_CUDA_NAME
};

#define CALL_COUNT (sizeof NAMES / sizeof *NAMES)

/* Finds every function, or says that the driver is too old to have them. */
static vdmrt_status
load_lock_held(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return VDMRT_ERROR_NO_DRIVER;
    }
    void **fields = (void **)&driver;
    for (size_t i = 0; i < CALL_COUNT; i++) {
        fields[i] = dlsym(library, NAMES[i]);
        if (fields[i] == NULL) {
            return VDMRT_ERROR_OLD_DRIVER; /* and the library stays open: vdmrt_cuda_version calls it */
        }
    }
    is_loaded = true;
    return VDMRT_OK;
}

/* cuInit may be called again and again; it answers at once when CUDA runs already. */
static vdmrt_status
start_lock_held(void)
{
    int version = 0;
    vdmrt_status status = is_loaded ? VDMRT_OK : load_lock_held();
    if (status != VDMRT_OK) {
        return status;
    }
    CUresult code = driver.init(0);
    if (code != CUDA_SUCCESS) {
        return vdmrt_status_of_driver(VDMRT_CUDA_CALL_init, (unsigned)code);
    }
    code = driver.driver_version(&version);
    if (code != CUDA_SUCCESS) {
        return vdmrt_status_of_driver(VDMRT_CUDA_CALL_driver_version, (unsigned)code);
    }
    if (version < VDMRT_CUDA_OLDEST) {
        return VDMRT_ERROR_OLD_DRIVER;
    }
    return VDMRT_OK;
}

vdmrt_status
vdmrt_cuda_open(const vdmrt_cuda **cuda)
{
    pthread_mutex_lock(&lock);
    vdmrt_status status = start_lock_held();
    pthread_mutex_unlock(&lock);
    *cuda = &driver;
    return status;
}

const char *
vdmrt_cuda_call_name(unsigned call)
{
    return call < CALL_COUNT ? NAMES[call] : "a call";
}

/* Asks for a text about a code by either of the two functions that tell one. */
static const char *
words_of(CUresult (*ask)(CUresult, const char **), unsigned code)
{
    const char *text = NULL;
    if (ask == NULL || ask((CUresult)code, &text) != CUDA_SUCCESS || text == NULL) {
        return "";
    }
    return text;
}

const char *
vdmrt_cuda_error_name(unsigned code)
{
    return words_of(driver.error_name, code);
}

const char *
vdmrt_cuda_error_words(unsigned code)
{
    return words_of(driver.error_string, code);
}

int
vdmrt_cuda_version(void)
{
    int version = 0;
    pthread_mutex_lock(&lock); /* each vdmrt_cuda_open checks an old driver again */
    bool is_known = driver.driver_version != NULL && driver.driver_version(&version) == CUDA_SUCCESS;
    pthread_mutex_unlock(&lock);
    return is_known ? version : 0;
}

int
vdmrt_cuda_device_count(void)
{
    int count = 0;
    bool is_known = driver.device_count != NULL && driver.device_count(&count) == CUDA_SUCCESS;
    return is_known ? count : 0;
}
