/* The CUDA device: the driver's interface found with dlopen, so that nothing of CUDA is needed to build or to load.
 *
 * Memory is managed (unified): host steps between kernels read and write it after a wait. A context has a stream of its
 * own; the module is loaded once a context, into the device's primary context, which all contexts share.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cuda.h"

typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUstream_st* CUstream;
typedef unsigned long long CUdeviceptr;

enum { ATTACH_GLOBAL = 1, STREAM_NON_BLOCKING = 1, MAX_DYNAMIC_SHARED = 8, OUT_OF_MEMORY = 2, NO_BINARY = 209 };

/* name in the table, exported name, parameters */
#define DRIVER(F)                                                                                              \
  F(init, cuInit, (unsigned flags))                                                                            \
  F(get_device, cuDeviceGet, (CUdevice*, int ordinal))                                                         \
  F(retain, cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))                                                  \
  F(drop, cuDevicePrimaryCtxRelease_v2, (CUdevice))                                                            \
  F(make_current, cuCtxSetCurrent, (CUcontext))                                                                \
  F(load_module, cuModuleLoadData, (CUmodule*, const void* image))                                             \
  F(unload_module, cuModuleUnload, (CUmodule))                                                                 \
  F(get_function, cuModuleGetFunction, (CUfunction*, CUmodule, const char* name))                              \
  F(set_attribute, cuFuncSetAttribute, (CUfunction, int attribute, int value))                                 \
  F(alloc_managed, cuMemAllocManaged, (CUdeviceptr*, size_t bytes, unsigned flags))                            \
  F(free_memory, cuMemFree_v2, (CUdeviceptr))                                                                  \
  F(create_stream, cuStreamCreate, (CUstream*, unsigned flags))                                                \
  F(destroy_stream, cuStreamDestroy_v2, (CUstream))                                                            \
  F(synchronize, cuStreamSynchronize, (CUstream))                                                              \
  F(launch, cuLaunchKernel,                                                                                    \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void**, void**)) \
  F(error_name, cuGetErrorName, (CUresult, const char**))

typedef struct {
#define F(field, name, parameters) CUresult(*field) parameters;
  DRIVER(F)
#undef F
  void* library;
  CUdevice device;
  CUcontext primary;
  CUmodule module;
  CUstream stream;
  CUfunction* functions;
  char* weights;
  int pending; /* kernels were enqueued since the last wait */
} cuda_state;

static int32_t failed(const cuda_state* cuda, optc_context* context, const char* what, CUresult result) {
  const char* name = "unknown error";
  if (cuda->error_name) cuda->error_name(result, &name);
  const char* hint = result == NO_BINARY ? ": the artifact holds no code for this GPU; compile with --target cuda:sm_XX" : "";
  return optc_fail(context, result == OUT_OF_MEMORY ? OPTC_OUT_OF_MEMORY : OPTC_BAD_HOST, "CUDA: %s failed with %s%s",
                   what, name, hint);
}

#define TRY(what, call)                                                \
  do {                                                                 \
    CUresult result_ = (call);                                         \
    if (result_) return failed(cuda, context, (what), result_);        \
  } while (0)

static int32_t find_driver(cuda_state* cuda, optc_context* context) {
  const char* named = getenv("OPTC_CUDA_DRIVER");
  cuda->library = dlopen(named && *named ? named : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!cuda->library)
    return optc_fail(context, OPTC_BAD_HOST, "no NVIDIA driver on this host: %s. This artifact runs on a GPU", dlerror());
#define F(field, name, parameters)                                                                       \
  *(void**)&cuda->field = dlsym(cuda->library, #name);                                                   \
  if (!cuda->field) return optc_fail(context, OPTC_BAD_HOST, "the NVIDIA driver is too old: it lacks " #name);
  DRIVER(F)
#undef F
  return OPTC_OK;
}

static int32_t prepare(cuda_state* cuda, optc_context* context, const char** weights, int64_t bytes) {
  int32_t status = find_driver(cuda, context);
  if (status) return status;
  TRY("starting the driver", cuda->init(0));
  TRY("opening device 0", cuda->get_device(&cuda->device, 0));
  TRY("taking the device's context", cuda->retain(&cuda->primary, cuda->device));
  TRY("entering the device's context", cuda->make_current(cuda->primary));
  TRY("loading the kernels", cuda->load_module(&cuda->module, optc_cuda_image));
  cuda->functions = calloc((size_t)optc_cuda_num_functions + 1, sizeof(CUfunction));
  if (!cuda->functions) return optc_fail(context, OPTC_OUT_OF_MEMORY, "cannot allocate a table of kernels");
  for (int32_t i = 0; i < optc_cuda_num_functions; i++)
    TRY(optc_cuda_functions[i], cuda->get_function(&cuda->functions[i], cuda->module, optc_cuda_functions[i]));
  TRY("making a stream", cuda->create_stream(&cuda->stream, STREAM_NON_BLOCKING));
  if (bytes > 0) {
    CUdeviceptr place = 0;
    TRY("allocating the weights", cuda->alloc_managed(&place, (size_t)bytes, ATTACH_GLOBAL));
    cuda->weights = (char*)(uintptr_t)place;
    memcpy(cuda->weights, *weights, (size_t)bytes);
    *weights = cuda->weights;
  }
  return OPTC_OK;
}

static void shut(void* state) {
  cuda_state* cuda = state;
  if (!cuda) return;
  if (cuda->primary) cuda->make_current(cuda->primary);
  if (cuda->weights) cuda->free_memory((CUdeviceptr)(uintptr_t)cuda->weights);
  if (cuda->stream) cuda->destroy_stream(cuda->stream);
  if (cuda->module) cuda->unload_module(cuda->module);
  if (cuda->primary) cuda->drop(cuda->device);
  if (cuda->library) dlclose(cuda->library);
  free(cuda->functions);
  free(cuda);
}

static int32_t open_device(optc_context* context, const char** weights, int64_t bytes, void** state) {
  cuda_state* cuda = *state = calloc(1, sizeof *cuda);
  if (!cuda) return optc_fail(context, OPTC_OUT_OF_MEMORY, "cannot allocate a device");
  return prepare(cuda, context, weights, bytes);
}

static void* alloc(optc_context* context, void* state, int64_t bytes) {
  cuda_state* cuda = state;
  CUdeviceptr place = 0;
  CUresult result = cuda->make_current(cuda->primary);
  if (!result) result = cuda->alloc_managed(&place, bytes > 0 ? (size_t)bytes : 1, ATTACH_GLOBAL);
  if (result) failed(cuda, context, "allocating memory", result);
  return (void*)(uintptr_t)place;
}

static void release(void* state, void* data) {
  cuda_state* cuda = state;
  if (data && !cuda->make_current(cuda->primary)) cuda->free_memory((CUdeviceptr)(uintptr_t)data);
}

static int32_t wait_for_kernels(optc_context* context, void* state) {
  cuda_state* cuda = state;
  if (!cuda->pending) return OPTC_OK;
  cuda->pending = 0;
  TRY("a kernel", cuda->synchronize(cuda->stream));
  return OPTC_OK;
}

int32_t optc_cuda_launch(int32_t index, const int64_t grid[3], const int32_t block[3], int32_t shared_bytes,
                         void** arguments) {
  optc_context* context = optc_device_context();
  cuda_state* cuda = optc_device_state(context);
  if (grid[0] <= 0 || grid[1] <= 0 || grid[2] <= 0) return OPTC_OK;
  if (!cuda->pending) TRY("entering the device's context", cuda->make_current(cuda->primary));
  if (shared_bytes > 48 << 10)
    TRY("asking for shared memory", cuda->set_attribute(cuda->functions[index], MAX_DYNAMIC_SHARED, shared_bytes));
  cuda->pending = 1;
  TRY(optc_cuda_functions[index],
      cuda->launch(cuda->functions[index], (unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2], (unsigned)block[0],
                   (unsigned)block[1], (unsigned)block[2], (unsigned)shared_bytes, cuda->stream, arguments, NULL));
  return OPTC_OK;
}

const optc_device optc_cuda_device = {open_device, shut, alloc, release, wait_for_kernels};
