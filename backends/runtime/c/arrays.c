/* A run straight from NumPy arrays, so that a call from Python costs about a microsecond more than one from C.
 *
 * The arrays are read through NumPy's own struct (PyArrayObject_fields: public, inlined into every extension, the same
 * since NumPy 1.7), without any call into Python. backends/runtime/fastcall.py checks once per process that the struct
 * looks as expected and otherwise never comes here.
 */
#include "arrays.h"

#include <stddef.h>

/* What follows the object header. `npy_intp` is as wide as a pointer. */
typedef struct numpy_fields {
  char* data;
  int rank;
  const intptr_t* shape;
  const intptr_t* strides;
  void* base;
  const void* dtype;
  int flags;
} numpy_fields;

enum { C_CONTIGUOUS = 0x1, ALIGNED = 0x100 };

/* Fills `tensor`; 0 if the array is not exactly of the expected class and dtype, dense, aligned and in rank limits. */
static int view(const optc_array_facts* facts, const char* array, const void* dtype, optc_tensor* tensor) {
  const numpy_fields* fields = (const numpy_fields*)(array + facts->header_bytes);
  const void* type = ((const void* const*)fields)[-1];
  if (type != facts->array_type || fields->dtype != dtype || fields->rank > OPTC_MAX_RANK) return 0;
  if ((fields->flags & (C_CONTIGUOUS | ALIGNED)) != (C_CONTIGUOUS | ALIGNED)) return 0;
  tensor->data = fields->data;
  tensor->rank = fields->rank;
  for (int i = 0; i < fields->rank; i++) tensor->shape[i] = fields->shape[i];
  return 1;
}

/* Views arrays [first, last) of the model's inputs and outputs as `tensors`; NULL becomes a tensor without data. */
static int view_all(const optc_array_facts* facts, const char* const* arrays, int32_t first, int32_t last,
                    optc_tensor* tensors) {
  const optc_model_info* info = optc_info();
  for (int32_t i = first; i < last; i++) {
    optc_tensor* tensor = &tensors[i - first];
    if (!arrays[i]) {
      tensor->data = NULL;
      continue;
    }
    if (!view(facts, arrays[i], facts->dtypes[i], tensor)) return 0;
    tensor->dtype = i < info->num_inputs ? info->inputs[i].dtype : info->outputs[i - info->num_inputs].dtype;
  }
  return 1;
}

int32_t optc_array_shapes(optc_context* context, const optc_array_facts* facts, const char* const* arrays,
                          optc_tensor* outputs) {
  optc_tensor inputs[OPTC_MAX_ARRAYS];
  int32_t count = optc_info()->num_inputs;
  if (count > OPTC_MAX_ARRAYS || !view_all(facts, arrays, 0, count, inputs)) return OPTC_NOT_PLAIN;
  return optc_output_shapes(context, inputs, outputs);
}

int32_t optc_run_arrays(optc_context* context, const optc_array_facts* facts, const char* const* arrays,
                        optc_tensor* outputs) {
  optc_tensor inputs[OPTC_MAX_ARRAYS];
  int32_t count = optc_info()->num_inputs, total = count + optc_info()->num_outputs;
  if (count > OPTC_MAX_ARRAYS || !view_all(facts, arrays, 0, count, inputs) ||
      !view_all(facts, arrays, count, total, outputs))
    return OPTC_NOT_PLAIN;
  return optc_run(context, inputs, outputs);
}
