/* The entry for Python, see arrays.c. Not part of the public interface. */
#ifndef OPTC_ARRAYS_H
#define OPTC_ARRAYS_H
#include "optc.h"

#define OPTC_MAX_ARRAYS 32
#define OPTC_NOT_PLAIN (-1)   /* an array needs conversion; nothing was run */

typedef struct optc_array_facts {
  int64_t header_bytes;           /* of a Python object; its last field is the type */
  const void* array_type;         /* numpy.ndarray */
  const void* const* dtypes;      /* the dtype object of each input, then of each output */
} optc_array_facts;

/* optc_output_shapes for the shapes of these input arrays. */
OPTC_API int32_t optc_array_shapes(optc_context* context, const optc_array_facts* facts, const char* const* arrays,
                                   optc_tensor* outputs);

/* `arrays`: the inputs, then the outputs that the caller has allocated; one that is NULL comes back in `outputs`. */
OPTC_API int32_t optc_run_arrays(optc_context* context, const optc_array_facts* facts, const char* const* arrays,
                                 optc_tensor* outputs);

#endif
