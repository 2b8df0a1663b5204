/* c = a (float16[2]), d = b (bool[0,3]) and f = e (bfloat16[]): copies of other types, of no elements, of no dims. */
#include <string.h>
#include "program.h"

static const int64_t a_shape[] = {2}, b_shape[] = {0, 3}, e_shape[] = {0};
static const char* const dim_names[] = {"", ""};
static const optc_port inputs[] = {{"a", OPTC_FLOAT16, 1, a_shape, dim_names}, {"b", OPTC_BOOL, 2, b_shape, dim_names},
                                   {"e", OPTC_BFLOAT16, 0, e_shape, dim_names}};
static const optc_port outputs[] = {{"c", OPTC_FLOAT16, 1, a_shape, dim_names}, {"d", OPTC_BOOL, 2, b_shape, dim_names},
                                    {"f", OPTC_BFLOAT16, 0, e_shape, dim_names}};
static const optc_model_info info = {OPTC_ABI_VERSION, "types", 3, 3, inputs, outputs, 0, "", 0, NULL};

static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {
  (void)context, (void)in, (void)symbols;
  return 0;
}
static void sizes(const int64_t* symbols, int64_t* bytes) { (void)symbols, (void)bytes; }
static void output_shapes(const int64_t* symbols, optc_tensor* out) {
  (void)symbols;
  out[0] = (optc_tensor){NULL, OPTC_FLOAT16, 1, {2}};
  out[1] = (optc_tensor){NULL, OPTC_BOOL, 2, {0, 3}};
  out[2] = (optc_tensor){NULL, OPTC_BFLOAT16, 0, {0}};
}
static int32_t run(optc_frame* frame) {
  void *c = optc_output(frame, 0), *d = optc_output(frame, 1), *f = optc_output(frame, 2);
  if (!c || !d || !f) return optc_failed(frame->context);
  memcpy(c, frame->inputs[0].data, 4);
  memcpy(f, frame->inputs[2].data, 2);
  return 0;
}
const optc_program optc_generated_program = {
    .info = &info, .num_symbols = 0, .bind = bind, .sizes = sizes, .output_shapes = output_shapes, .run = run,
};
