/* A run straight from NumPy arrays, so that a call from Python costs about a microsecond more than one from C.
 *
 * The arrays are read through NumPy's own struct (PyArrayObject_fields: public, inlined into every extension, the same
 * since NumPy 1.7), without any call into Python. backends/runtime/fastcall.py checks once per process that the struct
 * looks as expected and otherwise never comes here.
 */
#include "arrays.h"

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

int32_t optc_run_arrays(optc_context* context, const optc_array_facts* facts, const char* const* arrays) {
  const optc_model_info* info = optc_info();
  int32_t num_inputs = info->num_inputs, count = num_inputs + info->num_outputs;
  optc_tensor tensors[OPTC_MAX_ARRAYS];
  if (count > OPTC_MAX_ARRAYS) return OPTC_NOT_PLAIN;
  for (int32_t i = 0; i < count; i++) {
    const optc_port* port = i < num_inputs ? &info->inputs[i] : &info->outputs[i - num_inputs];
    if (!view(facts, arrays[i], facts->dtypes[i], &tensors[i])) return OPTC_NOT_PLAIN;
    tensors[i].dtype = port->dtype;
  }
  return optc_run(context, tensors, tensors + num_inputs);
}
