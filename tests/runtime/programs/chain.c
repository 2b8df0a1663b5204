/* z = 2 * (x + w) + y over float32[N, M], in four steps through three planned buffers: symbolic dims and weights.
 * The buffers live in steps {0,1}, {1,2} and {2,3}, so that the first and the third may share memory. */
#include <string.h>
#include "program.h"

static const int64_t shape[] = {-1, -1};
static const char* const dim_names[] = {"N", "M"};
static const optc_port inputs[] = {{"x", OPTC_FLOAT32, 2, shape, dim_names}, {"y", OPTC_FLOAT32, 2, shape, dim_names}};
static const optc_port outputs[] = {{"z", OPTC_FLOAT32, 2, shape, dim_names}};
static const char* const step_names[] = {"copy", "add", "double", "sum"};
static const optc_model_info info = {OPTC_ABI_VERSION, "chain", 2, 1, inputs, outputs, 68, "", 4, step_names};
static const optc_lifetime lifetimes[] = {{0, 1}, {1, 2}, {2, 3}};

static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {
  symbols[0] = in[0].shape[0];
  symbols[1] = in[0].shape[1];
  for (int i = 0; i < 2; i++)
    if (in[1].shape[i] != symbols[i])
      return optc_fail(context, OPTC_BAD_INPUT, "input \"y\": expected %s = %lld as in \"x\", found %lld", dim_names[i],
                       (long long)symbols[i], (long long)in[1].shape[i]);
  return 0;
}
static void sizes(const int64_t* symbols, int64_t* bytes) {
  for (int i = 0; i < 3; i++) bytes[i] = symbols[0] * symbols[1] * 4;
}
static void output_shapes(const int64_t* symbols, optc_tensor* out) {
  out[0] = (optc_tensor){NULL, OPTC_FLOAT32, 2, {symbols[0], symbols[1]}};
}

static int32_t copy(const float* x, float* a, int64_t n) {
  memcpy(a, x, (size_t)n * sizeof *x);
  return 0;
}
static int32_t add(const float* a, float w, float* b, int64_t n) {
  for (int64_t i = 0; i < n; i++) b[i] = a[i] + w;
  return 0;
}
static int32_t twice(const float* b, float* c, int64_t n) {
  for (int64_t i = 0; i < n; i++) c[i] = 2 * b[i];
  return 0;
}
static int32_t sum(const float* c, const float* y, float* z, int64_t n) {
  for (int64_t i = 0; i < n; i++) z[i] = c[i] + y[i];
  return 0;
}

static int32_t run(optc_frame* frame) {
  int32_t profiling = optc_profiling(frame->context);
  int64_t n = frame->symbols[0] * frame->symbols[1];
  float *a = (float*)frame->buffers[0], *b = (float*)frame->buffers[1], *c = (float*)frame->buffers[2];
  float w = *(const float*)(frame->weights + 64); /* the second tensor of the blob */
  OPTC_STEP(0, copy(frame->inputs[0].data, a, n));
  OPTC_STEP(1, add(a, w, b, n));
  OPTC_STEP(2, twice(b, c, n));
  float* z = optc_output(frame, 0);
  if (!z) return optc_failed(frame->context);
  OPTC_STEP(3, sum(c, frame->inputs[1].data, z, n));
  return 0;
}
const optc_program optc_generated_program = {
    .info = &info, .num_symbols = 2, .num_buffers = 3, .lifetimes = lifetimes,
    .bind = bind, .sizes = sizes, .output_shapes = output_shapes, .run = run,
};
