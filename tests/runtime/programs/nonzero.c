/* indices = the positions of x's non-zero elements, total = how many, over float32[N]: an output sized by data. */
#include "program.h"

static const int64_t in_shape[] = {-1}, out_shape[] = {-1}, scalar[] = {0};
static const char *const in_names[] = {"N"}, *const out_names[] = {"_count"};
static const optc_port inputs[] = {{"x", OPTC_FLOAT32, 1, in_shape, in_names}};
static const optc_port outputs[] = {{"indices", OPTC_INT64, 1, out_shape, out_names}, {"total", OPTC_INT64, 0, scalar, in_names}};
static const char* const step_names[] = {"nonzero"};
static const optc_model_info info = {OPTC_ABI_VERSION, "nonzero", 1, 2, inputs, outputs, 0, "", 1, step_names};

static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {
  (void)context;
  symbols[0] = in[0].shape[0];
  return 0;
}
static void sizes(const int64_t* symbols, int64_t* bytes) { (void)symbols, (void)bytes; }
static void output_shapes(const int64_t* symbols, optc_tensor* out) {
  (void)symbols;
  out[0] = (optc_tensor){NULL, OPTC_INT64, 1, {-1}};
  out[1] = (optc_tensor){NULL, OPTC_INT64, 0, {0}};
}
static int32_t run(optc_frame* frame) {
  optc_context* context = frame->context;
  const float* x = frame->inputs[0].data;
  int64_t count = 0, *found = optc_alloc(context, frame->symbols[0] * 8);
  if (!found) return optc_failed(context);
  for (int64_t i = 0; i < frame->symbols[0]; i++) {
    if (x[i] < 0) return optc_fail(context, OPTC_RUNTIME, "x[%lld] is negative", (long long)i);
    if (x[i] != 0) found[count++] = i;
  }
  frame->outputs[0].shape[0] = count;
  int64_t *indices = optc_output(frame, 0), *total = optc_output(frame, 1);
  if (!indices || !total) return optc_failed(context);
  for (int64_t i = 0; i < count; i++) indices[i] = found[i];
  *total = count;
  optc_release(context, found);
  return 0;
}
const optc_program optc_generated_program = {
    .info = &info, .num_symbols = 1, .bind = bind, .sizes = sizes, .output_shapes = output_shapes, .run = run,
};
