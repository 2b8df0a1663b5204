/* y = node 0 of x, into the caller's memory; z = node 1 of x, int64[1, count], sized by the node: both on the host. */
#include <string.h>
#include "program.h"

static const int64_t vector[] = {-1}, matrix[] = {1, -1};
static const char *const n[] = {"N"}, *const count[] = {"", "_count"};
static const optc_port inputs[] = {{"x", OPTC_FLOAT32, 1, vector, n}};
static const optc_port outputs[] = {{"y", OPTC_FLOAT32, 1, vector, n}, {"z", OPTC_INT64, 2, matrix, count}};
static const char* const step_names[] = {"node 0", "node 1"};
static const optc_model_info info = {OPTC_ABI_VERSION, "hosted", 1, 2, inputs, outputs, 0, "", 2, step_names};

static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {
  (void)context;
  symbols[0] = in[0].shape[0];
  return 0;
}
static void sizes(const int64_t* symbols, int64_t* bytes) { (void)symbols, (void)bytes; }
static void output_shapes(const int64_t* symbols, optc_tensor* out) {
  out[0] = (optc_tensor){NULL, OPTC_FLOAT32, 1, {symbols[0]}};
  out[1] = (optc_tensor){NULL, OPTC_INT64, 2, {1, -1}};
}
static int32_t run(optc_frame* frame) {
  optc_context* context = frame->context;
  int32_t profiling = optc_profiling(context);
  optc_tensor x = frame->inputs[0], z = {0};
  if (!optc_output(frame, 0)) return optc_failed(context);
  OPTC_STEP(0, optc_call_host(context, 0, &x, 1, &frame->outputs[0], 1));
  OPTC_STEP(1, optc_call_host(context, 1, &x, 1, &z, 1));
  frame->outputs[1].shape[1] = z.shape[1];
  void* out = optc_output(frame, 1);
  if (!out) return optc_failed(context);
  memcpy(out, z.data, (size_t)z.shape[1] * 8);
  return 0;
}
const optc_program optc_generated_program = {
    .info = &info, .num_symbols = 1, .bind = bind, .sizes = sizes, .output_shapes = output_shapes, .run = run,
};
