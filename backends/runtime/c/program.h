/* The contract between the generated program (one C file a model, written by backends/program.py) and the runtime
 * (runtime.c, pool.c), which are compiled together into the artifact's code. Not public.
 *
 * A program is a list of steps over numbered buffers. Symbols are the model's symbolic dims: `bind` reads them off the
 * input shapes. `sizes` gives each planned buffer's bytes; the runtime lays them out by lifetime, again only when the
 * symbols change. Buffers whose size depends on data are allocated by the program while it runs.
 */
#ifndef OPTC_PROGRAM_H
#define OPTC_PROGRAM_H
#include <stddef.h>
#include "optc.h"

typedef struct optc_lifetime { int32_t first, last; } optc_lifetime;   /* steps, both included */

/* A loop of a strided copy: `count` elements (or inner loops), so many elements apart on either side. */
typedef struct optc_axis { int32_t count, to, from; } optc_axis;

/* A copy from byte `from` of the weights to byte `to` of the unpacked ones: `rank` nested loops, the outermost first,
 * over elements of `itemsize` bytes; they start at number `axis` of the program's axes. */
typedef struct optc_box { int64_t to, from; int32_t itemsize, rank, axis; } optc_box;

typedef struct optc_frame {
  optc_context* context;
  const int64_t* symbols;
  const char* weights;
  const char* unpacked;           /* weights that the file holds in another form; NULL if there are none */
  const optc_tensor* inputs;      /* the caller's memory: aligned to its elements only, not to vectors */
  optc_tensor* outputs;           /* dtype, rank and shape as output_shapes gave them; `data` by optc_output only */
  char* const* buffers;           /* planned buffers, 64-byte aligned */
} optc_frame;

typedef struct optc_device optc_device; /* device.h */

typedef struct optc_program {
  const optc_model_info* info;
  int32_t num_symbols, num_buffers;
  const optc_lifetime* lifetimes;                                   /* num_buffers */
  int32_t (*bind)(optc_context*, const optc_tensor* inputs, int64_t* symbols);
  void (*sizes)(const int64_t* symbols, int64_t* bytes);
  void (*output_shapes)(const int64_t* symbols, optc_tensor* outputs); /* fills dtype, rank, shape; -1 if data-dependent */
  int32_t (*run)(optc_frame*);
  int64_t unpacked_bytes;                                           /* what `boxes` fill, the rest being zero */
  int32_t num_boxes;
  const optc_box* boxes;
  const optc_axis* axes;
  const optc_device* device;                                        /* what runs the kernels; NULL: the CPU */
} optc_program;

extern const optc_program optc_generated_program;

/* --- services of the runtime for generated code and C kernels --- */

/* printf-style; stores the message in the context and returns `status`, so that `return optc_fail(...)` reads well. */
int32_t optc_fail(optc_context*, int32_t status, const char* format, ...);

/* Zero or more bytes, 64-byte aligned, from the context; freed by optc_release or at the end of the run. */
void* optc_alloc(optc_context*, int64_t bytes);
void optc_release(optc_context*, void* data);

/* Gives output `index` a buffer for the shape in frame->outputs[index].shape (malloc if the caller gave none; else it
 * checks that the caller's shape agrees). Before, the program fills in the dims that depend on data. Like an input, the
 * buffer may be aligned to its elements only. Returns its data, or NULL with the error set (return optc_failed(...)). */
void* optc_output(optc_frame*, int32_t index);

/* Waits for the kernels enqueued on the program's device, so that the host may touch what they touch. */
int32_t optc_wait(optc_context*);

/* The status of the last optc_fail of this run: what to return where a service gave NULL. */
int32_t optc_failed(const optc_context*);

/* Runs fn(task, num_tasks, argument) for task in [0, num_tasks) on the context's pool. num_tasks 0: one a thread. */
int32_t optc_parallel(optc_context*, int32_t (*fn)(int32_t task, int32_t num_tasks, void*), void* argument, int32_t num_tasks);

/* How many nanoseconds one thread takes, by estimate, for the whole run and for the step that comes next: the pool has
 * nothing to do with runs and steps for which waking it would not pay. */
void optc_expect_run(optc_context*, int64_t nanoseconds);
void optc_expect(optc_context*, int64_t nanoseconds);

/* Runs node `index` on the host. An output with data gets its result there and must have its exact shape; for one
 * without, dtype, rank and shape are filled in and the data comes from optc_alloc. */
int32_t optc_call_host(optc_context*, int32_t index, const optc_tensor* inputs, int32_t num_inputs,
                       optc_tensor* outputs, int32_t num_outputs);

/* Step brackets: nothing but a predicted branch unless profiling is on. */
extern int64_t optc_now(void);
void optc_step_done(optc_context*, int32_t step, int64_t started);
int32_t optc_profiling(const optc_context*);
#define OPTC_STEP(step, call)                                              \
  do {                                                                     \
    int64_t started_ = profiling ? optc_now() : 0;                         \
    int32_t status_ = (call);                                              \
    if (status_) return status_;                                           \
    if (profiling) optc_step_done(frame->context, (step), started_);       \
  } while (0)

#endif
