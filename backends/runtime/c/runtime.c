/* The public functions of optc.h and the services of program.h. */
#if defined(__linux__)
#define _GNU_SOURCE
#include <sys/mman.h>
#endif
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "context.h"

#define PROGRAM (&optc_generated_program)
#define INFO (optc_generated_program.info)

static _Thread_local char create_error[512];

/* A block of optc_alloc: this header, then the data at OPTC_ALIGNMENT bytes from it. */
struct optc_block {
  optc_block *next, *previous;
};

static const struct {
  const char* name;
  int32_t bytes;
} dtypes[] = {
    [OPTC_FLOAT32] = {"float32", 4}, [OPTC_UINT8] = {"uint8", 1}, [OPTC_INT8] = {"int8", 1},
    [OPTC_UINT16] = {"uint16", 2}, [OPTC_INT16] = {"int16", 2}, [OPTC_INT32] = {"int32", 4},
    [OPTC_INT64] = {"int64", 8}, [OPTC_BOOL] = {"bool", 1}, [OPTC_FLOAT16] = {"float16", 2},
    [OPTC_FLOAT64] = {"float64", 8}, [OPTC_UINT32] = {"uint32", 4}, [OPTC_UINT64] = {"uint64", 8},
    [OPTC_COMPLEX64] = {"complex64", 8}, [OPTC_COMPLEX128] = {"complex128", 16}, [OPTC_BFLOAT16] = {"bfloat16", 2},
};

static int known_dtype(int32_t dtype) {
  return dtype > 0 && dtype < (int32_t)(sizeof dtypes / sizeof *dtypes) && dtypes[dtype].name;
}

static int64_t tensor_bytes(const optc_tensor* tensor) {
  int64_t bytes = dtypes[tensor->dtype].bytes;
  for (int32_t i = 0; i < tensor->rank; i++) bytes *= tensor->shape[i];
  return bytes;
}

static void* aligned(int64_t bytes) {
  return aligned_alloc(OPTC_ALIGNMENT, ((size_t)bytes + OPTC_ALIGNMENT) / OPTC_ALIGNMENT * OPTC_ALIGNMENT);
}

/* --- memory: the host's, or what the program's device and the host both see --- */

#define DEVICE (optc_generated_program.device)

optc_context* optc_device_context(void) { return optc_current(); }
void* optc_device_state(const optc_context* context) { return context->device; }
int32_t optc_wait(optc_context* context) { return DEVICE ? DEVICE->wait(context, context->device) : OPTC_OK; }

static void* take(optc_context* context, int64_t bytes) {
  return DEVICE ? DEVICE->alloc(context, context->device, bytes) : aligned(bytes);
}

static void give_back(optc_context* context, void* data) {
  if (!DEVICE)
    free(data);
  else if (context->device)
    DEVICE->release(context->device, data);
}

/* Memory for a plan; large ones ask for huge pages, which save most of the misses in the translation cache. */
static void* allocate_workspace(optc_context* context, int64_t bytes) {
  if (DEVICE) return take(context, bytes);
#if defined(MADV_HUGEPAGE)
  const size_t huge = 2 << 20;
  if ((size_t)bytes >= 2 * huge) {
    size_t rounded = ((size_t)bytes + huge - 1) / huge * huge;
    void* data = aligned_alloc(huge, rounded);
    if (data) madvise(data, rounded, MADV_HUGEPAGE); /* advice: a refusal costs nothing */
    return data;
  }
#endif
  return aligned(bytes);
}

static int same_type(const optc_tensor* a, const optc_tensor* b) {
  return a->dtype == b->dtype && a->rank == b->rank &&
         memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

/* --- errors --- */

static void lock_guard(optc_context* context) {
  while (atomic_flag_test_and_set_explicit(&context->guard, memory_order_acquire)) {
  }
}

static void unlock_guard(optc_context* context) { atomic_flag_clear_explicit(&context->guard, memory_order_release); }

int32_t optc_fail(optc_context* context, int32_t status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (!context) {
    vsnprintf(create_error, sizeof create_error, format, arguments);
  } else {
    lock_guard(context);
    if (!context->status) { /* the first failure is the cause */
      context->status = status;
      vsnprintf(context->error, sizeof context->error, format, arguments);
    }
    unlock_guard(context);
  }
  va_end(arguments);
  return status;
}

int32_t optc_failed(const optc_context* context) { return context->status ? context->status : OPTC_RUNTIME; }

const char* optc_error(const optc_context* context) { return context ? context->error : create_error; }

/* Writes "float32[2,3]" for messages. */
static const char* describe(const optc_tensor* tensor, char* text, size_t capacity) {
  const char* name = known_dtype(tensor->dtype) ? dtypes[tensor->dtype].name : "unknown";
  size_t used = (size_t)snprintf(text, capacity, "%s[", name);
  for (int32_t i = 0; i < tensor->rank && i < OPTC_MAX_RANK && used < capacity; i++)
    used += (size_t)snprintf(text + used, capacity - used, "%s%lld", i ? "," : "", (long long)tensor->shape[i]);
  if (used < capacity) snprintf(text + used, capacity - used, "]");
  return text;
}

static const char* describe_port(const optc_port* port, char* text, size_t capacity) {
  size_t used = (size_t)snprintf(text, capacity, "%s[", dtypes[port->dtype].name);
  for (int32_t i = 0; i < port->rank && used < capacity; i++) {
    const char* comma = i ? "," : "";
    if (port->shape[i] >= 0)
      used += (size_t)snprintf(text + used, capacity - used, "%s%lld", comma, (long long)port->shape[i]);
    else
      used += (size_t)snprintf(text + used, capacity - used, "%s%s", comma, port->dim_names[i]);
  }
  if (used < capacity) snprintf(text + used, capacity - used, "]");
  return text;
}

/* --- binding inputs, planning memory --- */

static int fits_port(const optc_tensor* tensor, const optc_port* port) {
  if (tensor->dtype != port->dtype || tensor->rank != port->rank) return 0;
  for (int32_t i = 0; i < port->rank; i++)
    if (tensor->shape[i] < 0 || (port->shape[i] >= 0 && tensor->shape[i] != port->shape[i])) return 0;
  return 1;
}

static int32_t check_inputs(optc_context* context, const optc_tensor* inputs) {
  char expected[160], found[160];
  for (int32_t i = 0; i < INFO->num_inputs; i++)
    if (!fits_port(&inputs[i], &INFO->inputs[i]))
      return optc_fail(context, OPTC_BAD_INPUT, "input \"%s\": expected %s, found %s", INFO->inputs[i].name,
                       describe_port(&INFO->inputs[i], expected, sizeof expected),
                       describe(&inputs[i], found, sizeof found));
  return OPTC_OK;
}

/* Computes the plan for `symbols` into bytes and offsets. Returns the bytes needed, or -1 with the error set. */
static int64_t plan(optc_context* context, const int64_t* symbols) {
  PROGRAM->sizes(symbols, context->bytes);
  int64_t total = optc_plan(PROGRAM->lifetimes, context->bytes, PROGRAM->num_buffers, context->offsets);
  if (total < 0) optc_fail(context, OPTC_OUT_OF_MEMORY, "no memory plan is possible for these input shapes");
  return total;
}

/* Makes symbols, plan, workspace and output types fit the inputs; costs a comparison if they have not changed. */
static int32_t bind_inputs(optc_context* context, const optc_tensor* inputs) {
  int32_t count = INFO->num_inputs, same = context->bound;
  for (int32_t i = 0; same && i < count; i++) same = same_type(&inputs[i], &context->bound_inputs[i]);
  if (same) return OPTC_OK;

  int32_t status = check_inputs(context, inputs);
  if (!status) status = PROGRAM->bind(context, inputs, context->new_symbols);
  if (status) return status;
  size_t symbol_bytes = (size_t)PROGRAM->num_symbols * sizeof(int64_t);
  if (!context->bound || memcmp(context->symbols, context->new_symbols, symbol_bytes) != 0) {
    context->bound = 0;
    memcpy(context->symbols, context->new_symbols, symbol_bytes);
    int64_t total = plan(context, context->symbols);
    if (total < 0) return OPTC_OUT_OF_MEMORY;
    if (total > context->capacity || !context->workspace) {
      give_back(context, context->workspace);
      context->workspace = allocate_workspace(context, total);
      context->capacity = context->workspace ? total : 0;
      if (!context->workspace)
        return optc_fail(context, OPTC_OUT_OF_MEMORY, "cannot allocate a workspace of %lld bytes", (long long)total);
    }
    context->planned = total;
    for (int32_t i = 0; i < PROGRAM->num_buffers; i++) context->buffers[i] = context->workspace + context->offsets[i];
    PROGRAM->output_shapes(context->symbols, context->output_types);
  }
  for (int32_t i = 0; i < count; i++) {
    context->bound_inputs[i] = inputs[i];
    context->bound_inputs[i].data = NULL;
  }
  context->bound = 1;
  return OPTC_OK;
}

/* --- memory of a run --- */

void* optc_alloc(optc_context* context, int64_t bytes) {
  optc_block* block = bytes < 0 ? NULL : take(context, bytes + OPTC_ALIGNMENT);
  if (!block) {
    optc_fail(context, OPTC_OUT_OF_MEMORY, "cannot allocate %lld bytes", (long long)bytes);
    return NULL;
  }
  lock_guard(context);
  *block = (optc_block){context->blocks, NULL};
  if (block->next) block->next->previous = block;
  context->blocks = block;
  unlock_guard(context);
  return (char*)block + OPTC_ALIGNMENT;
}

void optc_release(optc_context* context, void* data) {
  if (!data) return;
  optc_block* block = (optc_block*)((char*)data - OPTC_ALIGNMENT);
  lock_guard(context);
  if (block->next) block->next->previous = block->previous;
  *(block->previous ? &block->previous->next : &context->blocks) = block->next;
  unlock_guard(context);
  give_back(context, block);
}

static void release_all(optc_context* context) {
  while (context->blocks) {
    optc_block* block = context->blocks;
    context->blocks = block->next;
    give_back(context, block);
  }
}

void* optc_output(optc_frame* frame, int32_t index) {
  optc_context* context = frame->context;
  optc_tensor* output = &frame->outputs[index];
  const optc_tensor* given = &context->given[index];
  char expected[160], found[160];
  if (output->data) return output->data;
  if (!given->data) {
    int64_t bytes = tensor_bytes(output);
    output->data = bytes < 0 ? NULL : aligned(bytes);
    if (!output->data)
      optc_fail(context, OPTC_OUT_OF_MEMORY, "output \"%s\": cannot allocate %lld bytes", INFO->outputs[index].name,
                (long long)bytes);
  } else if (given->rank < 0 || given->rank > OPTC_MAX_RANK || !same_type(given, output)) {
    optc_fail(context, OPTC_BAD_INPUT, "output \"%s\": expected %s, found a buffer of %s", INFO->outputs[index].name,
              describe(output, expected, sizeof expected), describe(given, found, sizeof found));
  } else {
    output->data = given->data;
  }
  if (DEVICE && output->data) { /* kernels write memory of the device; the caller's is filled at the end */
    context->host_outputs[index] = output->data;
    output->data = optc_alloc(context, tensor_bytes(output));
  }
  return output->data;
}

/* --- the public functions --- */

const optc_model_info* optc_info(void) { return INFO; }
void optc_free(void* data) { free(data); }

void optc_destroy(optc_context* context) {
  if (!context) return;
  optc_pool_destroy(context->pool);
  release_all(context);
  optc_unpack_release(context->unpacked);
  free(context->bound_inputs);
  free(context->symbols);
  free(context->bytes);
  free(context->buffers);
  give_back(context, context->workspace);
  free(context->output_types);
  free(context->staged);
  free(context->host_outputs);
  free(context->nanoseconds);
  if (context->device) DEVICE->close(context->device);
  pthread_mutex_destroy(&context->lock);
  free(context);
}

static int allocate(optc_context* context) {
  size_t symbols = (size_t)PROGRAM->num_symbols, buffers = (size_t)PROGRAM->num_buffers;
  context->bound_inputs = calloc((size_t)INFO->num_inputs + 1, sizeof(optc_tensor));
  context->symbols = calloc(2 * symbols + 1, sizeof(int64_t));
  context->bytes = calloc(2 * buffers + 1, sizeof(int64_t));
  context->buffers = calloc(buffers + 1, sizeof(char*));
  context->output_types = calloc(2 * (size_t)INFO->num_outputs + 1, sizeof(optc_tensor));
  context->nanoseconds = calloc((size_t)INFO->num_steps + 1, sizeof(int64_t));
  context->pool = optc_pool_create(context->options.num_threads, context);
  if (PROGRAM->unpacked_bytes) {
    context->unpacked = optc_unpack(context->weights);
    if (!context->unpacked) return 0;
  }
  context->staged = calloc((size_t)INFO->num_inputs + 1, sizeof(optc_tensor));
  context->host_outputs = calloc((size_t)INFO->num_outputs + 1, sizeof(void*));
  if (!context->staged || !context->host_outputs || !context->bound_inputs || !context->symbols || !context->bytes ||
      !context->buffers || !context->output_types || !context->nanoseconds || !context->pool)
    return 0;
  context->new_symbols = context->symbols + symbols;
  context->offsets = context->bytes + buffers;
  context->outputs = context->output_types + INFO->num_outputs;
  return 1;
}

int32_t optc_create(const void* weights, int64_t weight_bytes, const optc_options* options, optc_context** result) {
  char missing[256];
  *result = NULL;
  if (optc_check_features(INFO->required_features, missing, sizeof missing))
    return optc_fail(NULL, OPTC_BAD_HOST, "this CPU or operating system lacks: %s", missing);
  if (weight_bytes != INFO->weight_bytes || (weight_bytes > 0 && !weights))
    return optc_fail(NULL, OPTC_BAD_INPUT, "expected %lld bytes of weights, found %lld", (long long)INFO->weight_bytes,
                     (long long)weight_bytes);
  if ((uintptr_t)weights % OPTC_ALIGNMENT != 0)
    return optc_fail(NULL, OPTC_BAD_INPUT, "the weights are not aligned to %d bytes", OPTC_ALIGNMENT);
  optc_context* context = calloc(1, sizeof *context);
  if (!context) return optc_fail(NULL, OPTC_OUT_OF_MEMORY, "cannot allocate a context");
  if (options) context->options = *options;
  if (context->options.num_threads <= 0) context->options.num_threads = optc_default_threads();
  context->weights = weights;
  pthread_mutex_init(&context->lock, NULL);
  atomic_flag_clear(&context->guard);
  if (!allocate(context)) {
    optc_destroy(context);
    return optc_fail(NULL, OPTC_OUT_OF_MEMORY, "cannot allocate a context");
  }
  if (DEVICE) {
    int32_t status = DEVICE->open(context, &context->weights, weight_bytes, &context->device);
    if (status) {
      optc_fail(NULL, status, "%s", context->error);
      optc_destroy(context);
      return status;
    }
  }
  *result = context;
  return OPTC_OK;
}

/* Starts a call: waits for the context's turn and clears its last error. */
static int32_t begin(optc_context* context) {
  if (optc_current() == context) return OPTC_RUNTIME; /* a host call that runs its own context would wait forever */
  pthread_mutex_lock(&context->lock);
  context->status = OPTC_OK;
  context->error[0] = '\0';
  return OPTC_OK;
}

/* The inputs in memory that the device sees. */
static int32_t stage_inputs(optc_context* context, const optc_tensor* inputs) {
  for (int32_t i = 0; i < INFO->num_inputs; i++) {
    int64_t bytes = tensor_bytes(&inputs[i]);
    context->staged[i] = inputs[i];
    context->staged[i].data = optc_alloc(context, bytes);
    if (!context->staged[i].data) return OPTC_OUT_OF_MEMORY;
    memcpy(context->staged[i].data, inputs[i].data, (size_t)bytes);
  }
  return OPTC_OK;
}

/* The outputs from the device's memory to the caller's. */
static int32_t fetch_outputs(optc_context* context, int32_t status) {
  int32_t waited = optc_wait(context);
  if (!status) status = waited;
  for (int32_t i = 0; i < INFO->num_outputs; i++) {
    optc_tensor* output = &context->outputs[i];
    if (!output->data) continue;
    if (!status) memcpy(context->host_outputs[i], output->data, (size_t)tensor_bytes(output));
    output->data = context->host_outputs[i];
  }
  return status;
}

/* Hands the results to the caller, or frees what a failed run had allocated for him. */
static int32_t finish_outputs(optc_context* context, optc_tensor* outputs, int32_t status) {
  for (int32_t i = 0; !status && i < INFO->num_outputs; i++)
    if (!context->outputs[i].data)
      status = optc_fail(context, OPTC_RUNTIME, "output \"%s\" was not produced", INFO->outputs[i].name);
  for (int32_t i = 0; i < INFO->num_outputs; i++) {
    if (!status)
      outputs[i] = context->outputs[i];
    else if (!outputs[i].data)
      free(context->outputs[i].data);
  }
  return status;
}

int32_t optc_run(optc_context* context, const optc_tensor* inputs, optc_tensor* outputs) {
  int32_t status = begin(context);
  if (status) return status;
  optc_context* before = optc_enter(context);
  optc_pool_set_busy(context->pool, 1);
  status = bind_inputs(context, inputs);
  if (!status) {
    memcpy(context->outputs, context->output_types, (size_t)INFO->num_outputs * sizeof(optc_tensor));
    for (int32_t i = 0; i < INFO->num_outputs; i++) context->outputs[i].data = NULL;
    context->given = outputs;
    const char* unpacked = context->unpacked ? optc_unpacked_data(context->unpacked) : NULL;
    if (DEVICE) status = stage_inputs(context, inputs);
    optc_frame frame = {context, context->symbols, context->weights, unpacked, DEVICE ? context->staged : inputs,
                        context->outputs, context->buffers};
    if (!status) status = PROGRAM->run(&frame);
    if (DEVICE) status = fetch_outputs(context, status);
    if (status && !context->status) optc_fail(context, status, "a kernel failed with status %d", status);
    status = finish_outputs(context, outputs, status);
    release_all(context);
  }
  optc_pool_set_busy(context->pool, 0);
  optc_enter(before);
  pthread_mutex_unlock(&context->lock);
  return status;
}

int32_t optc_output_shapes(optc_context* context, const optc_tensor* inputs, optc_tensor* outputs) {
  int32_t status = begin(context);
  if (status) return status;
  status = check_inputs(context, inputs);
  if (!status) status = PROGRAM->bind(context, inputs, context->new_symbols);
  if (!status) PROGRAM->output_shapes(context->new_symbols, outputs);
  pthread_mutex_unlock(&context->lock);
  return status;
}

int64_t optc_workspace_bytes(optc_context* context, const optc_tensor* inputs) {
  if (begin(context)) return -1;
  int64_t total = -1;
  if (!check_inputs(context, inputs) && !PROGRAM->bind(context, inputs, context->new_symbols))
    total = plan(context, context->new_symbols);
  pthread_mutex_unlock(&context->lock);
  return total;
}

int32_t optc_profile(optc_context* context, int32_t on, int64_t* nanoseconds) {
  int32_t status = begin(context);
  if (status) return status;
  size_t bytes = (size_t)INFO->num_steps * sizeof(int64_t);
  if (nanoseconds) memcpy(nanoseconds, context->nanoseconds, bytes);
  if (on && !context->profiling) memset(context->nanoseconds, 0, bytes);
  context->profiling = on;
  pthread_mutex_unlock(&context->lock);
  return OPTC_OK;
}

int32_t optc_profiling(const optc_context* context) { return context->profiling; }

void optc_step_done(optc_context* context, int32_t step, int64_t started) {
  context->nanoseconds[step] += optc_now() - started;
}

/* --- nodes that run on the host --- */

int32_t optc_call_host(optc_context* context, int32_t index, const optc_tensor* inputs, int32_t num_inputs,
                       optc_tensor* outputs, int32_t num_outputs) {
  const optc_options* options = &context->options;
  uint64_t given = 0; /* bit i: output i came with a buffer */
  if (!options->host_call)
    return optc_fail(context, OPTC_RUNTIME, "node %d runs on the host's engine, and the host offers none", index);
  if (num_outputs > 64) return optc_fail(context, OPTC_RUNTIME, "node %d has more than 64 outputs", index);
  for (int32_t i = 0; i < num_outputs; i++) given |= (uint64_t)(outputs[i].data != NULL) << i;
  int32_t status = options->host_call(options->host_user, index, inputs, num_inputs, outputs, num_outputs);
  if (status) return optc_fail(context, status, "node %d failed on the host's engine", index);
  for (int32_t i = 0; i < num_outputs; i++) {
    if (given >> i & 1) continue;
    int64_t bytes = tensor_bytes(&outputs[i]);
    void* copy = optc_alloc(context, bytes);
    if (!copy) return OPTC_OUT_OF_MEMORY;
    if (bytes > 0) memcpy(copy, outputs[i].data, (size_t)bytes);
    outputs[i].data = copy;
  }
  return OPTC_OK;
}
