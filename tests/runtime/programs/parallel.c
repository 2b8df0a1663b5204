/* y[i] = x[i]^2 over float32[N], by tasks; a task that meets a negative number fails. "seen" is the number of different
 * threads that took part in a job whose tasks wait for each other, and "nested" the sum of a job inside a job. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include "program.h"

static const int64_t shape[] = {-1}, scalar[] = {0};
static const char* const dim_names[] = {"N"};
static const optc_port inputs[] = {{"x", OPTC_FLOAT32, 1, shape, dim_names}};
static const optc_port outputs[] = {
    {"y", OPTC_FLOAT32, 1, shape, dim_names}, {"seen", OPTC_INT32, 0, scalar, dim_names}, {"nested", OPTC_INT32, 0, scalar, dim_names}};
static const char* const step_names[] = {"squares"};
static const optc_model_info info = {OPTC_ABI_VERSION, "parallel", 1, 3, inputs, outputs, 0, "", 1, step_names};

static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {
  (void)context;
  symbols[0] = in[0].shape[0];
  return 0;
}
static void sizes(const int64_t* symbols, int64_t* bytes) { (void)symbols, (void)bytes; }
static void output_shapes(const int64_t* symbols, optc_tensor* out) {
  out[0] = (optc_tensor){NULL, OPTC_FLOAT32, 1, {symbols[0]}};
  out[1] = out[2] = (optc_tensor){NULL, OPTC_INT32, 0, {0}};
}

typedef struct job {
  optc_context* context;
  const float* x;
  float* y;
  int64_t count;
  atomic_int arrived, nested;
} job;

static int32_t squares(int32_t task, int32_t num_tasks, void* argument) {
  job* j = argument;
  for (int64_t i = j->count * task / num_tasks; i < j->count * (task + 1) / num_tasks; i++) {
    if (j->x[i] < 0) return optc_fail(j->context, OPTC_RUNTIME, "x[%lld] is negative", (long long)i);
    j->y[i] = j->x[i] * j->x[i];
  }
  return 0;
}
/* Each task waits until all have arrived: only as many threads as tasks can finish this. */
static int32_t meet(int32_t task, int32_t num_tasks, void* argument) {
  (void)task;
  job* j = argument;
  atomic_fetch_add(&j->arrived, 1);
  while (atomic_load(&j->arrived) < num_tasks) sched_yield();
  return 0;
}
static int32_t inner(int32_t task, int32_t num_tasks, void* argument) {
  (void)num_tasks;
  atomic_fetch_add(&((job*)argument)->nested, task);
  return 0;
}
static int32_t outer(int32_t task, int32_t num_tasks, void* argument) {
  (void)task, (void)num_tasks;
  return optc_parallel(((job*)argument)->context, inner, argument, 5);
}

static int32_t run(optc_frame* frame) {
  float* y = optc_output(frame, 0);
  int32_t *seen = optc_output(frame, 1), *nested = optc_output(frame, 2);
  if (!y || !seen || !nested) return optc_failed(frame->context);
  job j = {frame->context, frame->inputs[0].data, y, frame->symbols[0], 0, 0};
  int32_t status = optc_parallel(frame->context, squares, &j, 7);
  if (!status) status = optc_parallel(frame->context, meet, &j, 0);
  if (!status) status = optc_parallel(frame->context, outer, &j, 6);
  *seen = atomic_load(&j.arrived);
  *nested = atomic_load(&j.nested);
  return status;
}
const optc_program optc_generated_program = {
    .info = &info, .num_symbols = 1, .bind = bind, .sizes = sizes, .output_shapes = output_shapes, .run = run,
};
