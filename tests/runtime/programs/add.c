/* z = x + y on float32[1,8]: static shapes, one step, no workspace. */
#include "program.h"

static const int64_t shape[] = {1, 8};
static const char* const dim_names[] = {"", ""};
static const optc_port inputs[] = {{"x", OPTC_FLOAT32, 2, shape, dim_names}, {"y", OPTC_FLOAT32, 2, shape, dim_names}};
static const optc_port outputs[] = {{"z", OPTC_FLOAT32, 2, shape, dim_names}};
static const char* const step_names[] = {"add"};
#ifndef ABI
#define ABI OPTC_ABI_VERSION
#endif
#ifndef FEATURES
#define FEATURES ""
#endif
static const optc_model_info info = {ABI, "add", 2, 1, inputs, outputs, 0, FEATURES, 1, step_names};

static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {
  (void)context, (void)in, (void)symbols;
  return 0;
}
static void sizes(const int64_t* symbols, int64_t* bytes) { (void)symbols, (void)bytes; }
static void output_shapes(const int64_t* symbols, optc_tensor* out) {
  (void)symbols;
  out[0] = (optc_tensor){NULL, OPTC_FLOAT32, 2, {1, 8}};
}
static int32_t add(const float* x, const float* y, float* z) {
  for (int i = 0; i < 8; i++) z[i] = x[i] + y[i];
  return 0;
}
static int32_t run(optc_frame* frame) {
  int32_t profiling = optc_profiling(frame->context);
  float* z = optc_output(frame, 0);
  if (!z) return optc_failed(frame->context);
  OPTC_STEP(0, add(frame->inputs[0].data, frame->inputs[1].data, z));
  return 0;
}
const optc_program optc_generated_program = {
    .info = &info, .num_symbols = 0, .bind = bind, .sizes = sizes, .output_shapes = output_shapes, .run = run,
};
