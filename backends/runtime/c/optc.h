/* optc's public C interface: what every compiled model (`code.so` inside an .optc artifact) exports.
 *
 * The code needs libc, libm and pthreads, and nothing else. All symbols below are found with dlsym or by linking;
 * `backends/runtime/c/loader.h` opens an .optc file and fills an optc_api for you.
 *
 * A model is immutable and shared. A context is one call in flight: it owns the workspace and the thread pool, so
 * one context serves one thread at a time, and several contexts of one model run side by side.
 */
#ifndef OPTC_H
#define OPTC_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#ifndef OPTC_API
#define OPTC_API __attribute__((visibility("default")))
#endif

#define OPTC_ABI_VERSION 1
#define OPTC_MAX_RANK 8

/* Element types carry ONNX's own numbers (onnx.TensorProto.DataType). */
enum optc_dtype {
  OPTC_FLOAT32 = 1, OPTC_UINT8 = 2, OPTC_INT8 = 3, OPTC_UINT16 = 4, OPTC_INT16 = 5, OPTC_INT32 = 6, OPTC_INT64 = 7,
  OPTC_BOOL = 9, OPTC_FLOAT16 = 10, OPTC_FLOAT64 = 11, OPTC_UINT32 = 12, OPTC_UINT64 = 13,
  OPTC_COMPLEX64 = 14, OPTC_COMPLEX128 = 15, OPTC_BFLOAT16 = 16
};

enum optc_status {
  OPTC_OK = 0,
  OPTC_BAD_INPUT = 1,   /* wrong dtype, rank or shape; or dims that contradict each other */
  OPTC_OUT_OF_MEMORY = 2,
  OPTC_BAD_HOST = 3,    /* the host lacks an instruction set the code needs */
  OPTC_RUNTIME = 4      /* a node failed on these values, e.g. an index out of range */
};

/* A dense row-major tensor, aligned to its element. `data` may be NULL for an output: the model then allocates it (see optc_run). */
typedef struct optc_tensor {
  void* data;
  int32_t dtype;                  /* enum optc_dtype */
  int32_t rank;
  int64_t shape[OPTC_MAX_RANK];
} optc_tensor;

/* One declared input or output. A dim of -1 is symbolic (or data-dependent, for outputs); `dim_names[i]` names it. */
typedef struct optc_port {
  const char* name;
  int32_t dtype, rank;
  const int64_t* shape;
  const char* const* dim_names;   /* "" where the dim is a number */
} optc_port;

typedef struct optc_model_info {
  int32_t abi_version;
  const char* name;
  int32_t num_inputs, num_outputs;
  const optc_port *inputs, *outputs;
  int64_t weight_bytes;           /* size of the blob that optc_create must be given */
  const char* required_features;  /* space-separated CPU features, e.g. "avx2 fma avx512f"; "" if none */
  int32_t num_steps;              /* entries of optc_profile */
  const char* const* step_names;
} optc_model_info;

typedef struct optc_context optc_context;

/* Called for a node that runs on the host's own engine (compiled with --fallback). Returns 0, or an optc_status. */
typedef int32_t (*optc_host_call)(void* user, int32_t index, const optc_tensor* inputs, int32_t num_inputs,
                                  optc_tensor* outputs, int32_t num_outputs);

typedef struct optc_options {
  int32_t num_threads;            /* 0: one per physical core this process may run on */
  optc_host_call host_call;       /* NULL unless the model has fallback nodes */
  void* host_user;
} optc_options;

OPTC_API const optc_model_info* optc_info(void);

/* `weights`: the model's weight blob, 64-byte aligned, which must outlive the context. */
OPTC_API int32_t optc_create(const void* weights, int64_t weight_bytes, const optc_options* options, optc_context** context);
OPTC_API void optc_destroy(optc_context* context);

/* Runs once. Each output's data is either a buffer of the right size with dtype, rank and shape filled in
 * (see optc_output_shapes), or NULL: then the model allocates it with malloc and sets its shape; free it with optc_free. */
OPTC_API int32_t optc_run(optc_context* context, const optc_tensor* inputs, optc_tensor* outputs);

/* Fills dtype, rank and shape of each output for these input shapes (data pointers are not read);
 * a dim that depends on data is -1. */
OPTC_API int32_t optc_output_shapes(optc_context* context, const optc_tensor* inputs, optc_tensor* outputs);

/* Bytes of workspace that a run with these input shapes plans (data-dependent tensors come on top). */
OPTC_API int64_t optc_workspace_bytes(optc_context* context, const optc_tensor* inputs);

/* Threads that a run may use, the caller's included. */
OPTC_API int32_t optc_num_threads(const optc_context* context);

/* Turns per-step timing on (1) or off (0); `nanoseconds` (num_steps entries, may be NULL) receives the sums so far. */
OPTC_API int32_t optc_profile(optc_context* context, int32_t on, int64_t* nanoseconds);

/* The last error of this context (or of optc_create, with NULL): one line, valid until the next call. */
OPTC_API const char* optc_error(const optc_context* context);
OPTC_API void optc_free(void* data);

#ifdef __cplusplus
}
#endif
#endif
