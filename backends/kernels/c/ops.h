/* What the C ops share: element access by dtype, shapes, checked allocation of outputs, strided copies.
 *
 * A C op is `int32_t optc_op_NAME(OP_ARGUMENTS)`; its comment lists inputs, outputs, `ints` and `floats`. An omitted
 * input has rank -1. An output comes with its dtype and, where the compiler knows the shape, with shape and data;
 * otherwise data is NULL and op_output sets the shape and allocates.
 */
#ifndef OPTC_OPS_H
#define OPTC_OPS_H
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "program.h"

#define OP_ARGUMENTS                                                                                                \
  optc_context *ctx, const optc_tensor *in, int32_t num_in, optc_tensor *out, int32_t num_out, const int64_t *ints, \
      const double *floats
#define OP_UNUSED (void)num_in, (void)num_out, (void)ints, (void)floats
#define OP_TRY(call)             \
  do {                           \
    int32_t status_ = (call);    \
    if (status_) return status_; \
  } while (0)
/* Fails with a message; the compiler sees that the value is not OPTC_OK. */
#define op_fail(ctx, status, ...) (optc_fail(ctx, status, __VA_ARGS__), (int32_t)(status))
#define OP_INLINE static inline __attribute__((unused))
#define OP_MAX_AXES (2 * OPTC_MAX_RANK) /* axes of a strided copy: Tile splits each dim in two */

OP_INLINE int64_t op_min(int64_t a, int64_t b) { return a < b ? a : b; }
OP_INLINE int64_t op_max(int64_t a, int64_t b) { return a > b ? a : b; }
OP_INLINE int64_t op_clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

/* --- elements ---------------------------------------------------------------------------------------------------- */

/* Bytes of one element. */
OP_INLINE int64_t op_itemsize(int32_t dtype) {
  switch (dtype) {
    case OPTC_UINT8:
    case OPTC_INT8:
    case OPTC_BOOL: return 1;
    case OPTC_UINT16:
    case OPTC_INT16:
    case OPTC_FLOAT16:
    case OPTC_BFLOAT16: return 2;
    case OPTC_INT64:
    case OPTC_UINT64:
    case OPTC_FLOAT64:
    case OPTC_COMPLEX64: return 8;
    case OPTC_COMPLEX128: return 16;
    default: return 4;
  }
}

OP_INLINE int op_is_float(int32_t dtype) {
  return dtype == OPTC_FLOAT32 || dtype == OPTC_FLOAT64 || dtype == OPTC_FLOAT16 || dtype == OPTC_BFLOAT16;
}

OP_INLINE float op_float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

OP_INLINE uint32_t op_bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

OP_INLINE float op_from_bf16(uint16_t h) { return op_float_of_bits((uint32_t)h << 16); }

OP_INLINE float op_from_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 is exact */
    float value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
  }
  exponent = exponent == 31 ? 255 : exponent + 112;
  return op_float_of_bits(sign | exponent << 23 | mantissa << 13);
}

/* Round to nearest, ties to even. A double goes through float rounded to odd, so that it is rounded only once. */
OP_INLINE float op_odd_float(double value) {
  float f = (float)value;
  if ((double)f == value || isnan(value) || isinf(f)) return f;
  uint32_t bits = op_bits_of_float(f);
  if (fabs((double)f) > fabs(value)) bits--;
  return op_float_of_bits(bits | 1);
}

OP_INLINE uint16_t op_to_bf16(double value) {
  uint32_t bits = op_bits_of_float(op_odd_float(value));
  if (isnan(value)) return (uint16_t)(bits >> 16 | 64);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

OP_INLINE uint16_t op_to_f16(double value) {
  uint32_t bits = op_bits_of_float(op_odd_float(value)), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (rest < 0x38800000) return (uint16_t)(sign | (uint32_t)nearbyintf(op_float_of_bits(rest) * 0x1p24f));
  return (uint16_t)(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}

/* Element i as a double (integers of 64 bits lose their low bits: use op_get_int for those). */
OP_INLINE double op_get(const optc_tensor* t, int64_t i) {
  switch (t->dtype) {
    case OPTC_FLOAT32: return ((const float*)t->data)[i];
    case OPTC_FLOAT64: return ((const double*)t->data)[i];
    case OPTC_FLOAT16: return op_from_f16(((const uint16_t*)t->data)[i]);
    case OPTC_BFLOAT16: return op_from_bf16(((const uint16_t*)t->data)[i]);
    case OPTC_UINT8:
    case OPTC_BOOL: return ((const uint8_t*)t->data)[i];
    case OPTC_INT8: return ((const int8_t*)t->data)[i];
    case OPTC_UINT16: return ((const uint16_t*)t->data)[i];
    case OPTC_INT16: return ((const int16_t*)t->data)[i];
    case OPTC_UINT32: return ((const uint32_t*)t->data)[i];
    case OPTC_INT32: return ((const int32_t*)t->data)[i];
    case OPTC_UINT64: return (double)((const uint64_t*)t->data)[i];
    default: return (double)((const int64_t*)t->data)[i];
  }
}

/* Element i of an integer tensor, exact; uint64 comes as its bits. A float is truncated. */
OP_INLINE int64_t op_get_int(const optc_tensor* t, int64_t i) {
  switch (t->dtype) {
    case OPTC_INT64:
    case OPTC_UINT64: return ((const int64_t*)t->data)[i];
    default: return (int64_t)op_get(t, i);
  }
}

OP_INLINE void op_put_int(optc_tensor* t, int64_t i, int64_t value) {
  switch (op_itemsize(t->dtype)) {
    case 1: ((uint8_t*)t->data)[i] = (uint8_t)value; break;
    case 2: ((uint16_t*)t->data)[i] = (uint16_t)value; break;
    case 4: ((uint32_t*)t->data)[i] = (uint32_t)value; break;
    default: ((uint64_t*)t->data)[i] = (uint64_t)value;
  }
}

/* Stores a double; an integer tensor gets it truncated towards zero. */
OP_INLINE void op_put(optc_tensor* t, int64_t i, double value) {
  switch (t->dtype) {
    case OPTC_FLOAT32: ((float*)t->data)[i] = (float)value; break;
    case OPTC_FLOAT64: ((double*)t->data)[i] = value; break;
    case OPTC_FLOAT16: ((uint16_t*)t->data)[i] = op_to_f16(value); break;
    case OPTC_BFLOAT16: ((uint16_t*)t->data)[i] = op_to_bf16(value); break;
    case OPTC_BOOL: ((uint8_t*)t->data)[i] = value != 0; break;
    default: op_put_int(t, i, value < 0x1p63 ? (int64_t)value : (int64_t)(uint64_t)value);
  }
}

/* --- shapes ------------------------------------------------------------------------------------------------------ */

OP_INLINE int op_has(const optc_tensor* in, int32_t num_in, int32_t index) {
  return index < num_in && in[index].rank >= 0;
}

/* Product of dims [from, to). */
OP_INLINE int64_t op_span(const int64_t* shape, int32_t from, int32_t to) {
  int64_t count = 1;
  for (int32_t i = from; i < to; i++) count *= shape[i];
  return count;
}

OP_INLINE int64_t op_count(const optc_tensor* t) { return op_span(t->shape, 0, t->rank); }

/* Row-major strides in units of `unit` (1: elements; the item size: bytes). */
OP_INLINE void op_strides(const int64_t* shape, int32_t rank, int64_t unit, int64_t* strides) {
  for (int32_t i = rank - 1; i >= 0; i--) {
    strides[i] = unit;
    unit *= op_max(shape[i], 1);
  }
}

/* "[2, 3]" for messages; returns `text`. */
OP_INLINE const char* op_shape_text(const int64_t* shape, int32_t rank, char text[200]) {
  int at = snprintf(text, 200, "[");
  for (int32_t i = 0; i < rank && at < 180; i++)
    at += snprintf(text + at, 200 - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
  snprintf(text + at, 200 - at, "]");
  return text;
}

/* Scratch memory for `count` elements of `size` bytes in *data. */
OP_INLINE int32_t op_scratch(optc_context* ctx, int64_t count, int64_t size, void** data) {
  int64_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return op_fail(ctx, OPTC_OUT_OF_MEMORY, "scratch size overflows");
  *data = optc_alloc(ctx, bytes);
  return *data ? OPTC_OK
               : op_fail(ctx, OPTC_OUT_OF_MEMORY, "out of memory for %lld bytes of scratch", (long long)bytes);
}

/* Gives `t` this shape: allocates it, or checks that it is the shape the compiler promised. */
OP_INLINE int32_t op_output(optc_context* ctx, const char* op, optc_tensor* t, int32_t rank, const int64_t* shape) {
  char found[200], promised[200];
  if (rank > OPTC_MAX_RANK)
    return op_fail(ctx, OPTC_RUNTIME, "%s: result has rank %d, the most is %d", op, rank, OPTC_MAX_RANK);
  int64_t bytes = op_itemsize(t->dtype);
  for (int32_t i = 0; i < rank; i++) {
    if (shape[i] < 0 || __builtin_mul_overflow(bytes, shape[i], &bytes)) {
      return op_fail(ctx, OPTC_RUNTIME, "%s: impossible result shape %s", op, op_shape_text(shape, rank, found));
    }
  }
  if (t->data) {
    int same = t->rank == rank && (rank == 0 || !memcmp(t->shape, shape, (size_t)rank * sizeof *shape));
    return same ? OPTC_OK
                : op_fail(ctx, OPTC_RUNTIME, "%s: result has shape %s, the graph promises %s", op,
                          op_shape_text(shape, rank, found), op_shape_text(t->shape, t->rank, promised));
  }
  t->rank = rank;
  if (rank) memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
  t->data = optc_alloc(ctx, bytes);
  return t->data ? OPTC_OK : op_fail(ctx, OPTC_OUT_OF_MEMORY, "%s: out of memory for %lld bytes", op, (long long)bytes);
}

/* Counts a negative axis from the end; fails if it lies outside [-rank, rank). */
OP_INLINE int32_t op_axis(optc_context* ctx, const char* op, int64_t axis, int32_t rank, int32_t* result) {
  if (axis < -rank || axis >= rank) {
    return op_fail(ctx, OPTC_RUNTIME, "%s: axis %lld out of range [%d, %d)", op, (long long)axis, -rank, rank);
  }
  *result = (int32_t)(axis < 0 ? axis + rank : axis);
  return OPTC_OK;
}

/* Copies a small integer tensor (axes, a shape) of at most `max` elements. */
OP_INLINE int32_t op_list(optc_context* ctx, const char* op, const optc_tensor* t, int32_t max, int64_t* values,
                          int32_t* count) {
  int64_t n = op_count(t);
  if (n > max) return op_fail(ctx, OPTC_RUNTIME, "%s: a list of %lld numbers, the most is %d", op, (long long)n, max);
  for (int64_t i = 0; i < n; i++) values[i] = op_get_int(t, i);
  *count = (int32_t)n;
  return OPTC_OK;
}

/* The first element of a tensor that must have one. */
OP_INLINE int32_t op_scalar(optc_context* ctx, const char* op, const char* what, const optc_tensor* t, int64_t* value) {
  if (op_count(t) != 1)
    return op_fail(ctx, OPTC_RUNTIME, "%s: %s must have one element, it has %lld", op, what, (long long)op_count(t));
  *value = op_get_int(t, 0);
  return OPTC_OK;
}

/* axes[i] from the list in `t`, each counted from the front and in range; a repeated axis fails. */
OP_INLINE int32_t op_axes(optc_context* ctx, const char* op, const optc_tensor* t, int32_t rank, int32_t* axes,
                          int32_t* count) {
  int64_t values[OPTC_MAX_RANK];
  OP_TRY(op_list(ctx, op, t, OPTC_MAX_RANK, values, count));
  for (int32_t i = 0; i < *count; i++) {
    OP_TRY(op_axis(ctx, op, values[i], rank, &axes[i]));
    for (int32_t j = 0; j < i; j++) {
      if (axes[j] == axes[i]) return op_fail(ctx, OPTC_RUNTIME, "%s: axis %d given twice", op, axes[i]);
    }
  }
  return OPTC_OK;
}

/* Moves `index` to the next position of `shape` in row-major order; 0 after the last. */
OP_INLINE int op_next(int64_t* index, const int64_t* shape, int32_t rank) {
  for (int32_t i = rank - 1; i >= 0; i--) {
    if (++index[i] < shape[i]) return 1;
    index[i] = 0;
  }
  return 0;
}

/* --- strided copies ---------------------------------------------------------------------------------------------- */

#define OP_COPY_ROW(type)                               \
  for (int64_t i = 0; i < count; i++) {                 \
    type value_;                                        \
    memcpy(&value_, src + i * src_step, sizeof value_); \
    memcpy(dst + i * dst_step, &value_, sizeof value_); \
  }

OP_INLINE void op_copy_row(char* dst, int64_t dst_step, const char* src, int64_t src_step, int64_t count,
                           int64_t item) {
  if (src_step == item && dst_step == item) {
    memcpy(dst, src, (size_t)(count * item));
    return;
  }
  typedef struct {
    uint64_t half[2];
  } pair;
  switch (item) {
    case 1: OP_COPY_ROW(uint8_t) break;
    case 2: OP_COPY_ROW(uint16_t) break;
    case 4: OP_COPY_ROW(uint32_t) break;
    case 8: OP_COPY_ROW(uint64_t) break;
    case 16: OP_COPY_ROW(pair) break;
    default:
      for (int64_t i = 0; i < count; i++) memcpy(dst + i * dst_step, src + i * src_step, (size_t)item);
  }
}

/* dst[i...] = src[i...] over `shape`; strides in bytes, any sign, 0 to broadcast; `item` is the size of an element. */
OP_INLINE void op_copy(char* dst, const int64_t* dst_strides, const char* src, const int64_t* src_strides,
                       const int64_t* shape, int32_t rank, int64_t item) {
  int64_t dims[OP_MAX_AXES], d[OP_MAX_AXES], s[OP_MAX_AXES];
  int32_t n = 0;
  for (int32_t i = 0; i < rank; i++) { /* axes that are contiguous with their neighbour become one */
    if (shape[i] == 0) return;
    if (shape[i] == 1) continue;
    if (n && d[n - 1] == dst_strides[i] * shape[i] && s[n - 1] == src_strides[i] * shape[i]) {
      dims[n - 1] *= shape[i];
    } else {
      dims[n++] = shape[i];
    }
    d[n - 1] = dst_strides[i], s[n - 1] = src_strides[i];
  }
  if (n == 0) {
    memcpy(dst, src, (size_t)item);
    return;
  }
  int64_t index[OP_MAX_AXES] = {0};
  for (;;) {
    op_copy_row(dst, d[n - 1], src, s[n - 1], dims[n - 1], item);
    int32_t axis = n - 2;
    for (; axis >= 0; axis--) {
      dst += d[axis], src += s[axis];
      if (++index[axis] < dims[axis]) break;
      dst -= d[axis] * dims[axis], src -= s[axis] * dims[axis];
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}

/* Fills `count` elements with the element at `value` (NULL: zeros). */
OP_INLINE void op_fill(void* data, int64_t count, const void* value, int64_t item) {
  if (value) op_copy_row((char*)data, item, (const char*)value, 0, count, item);
  else if (count) memset(data, 0, (size_t)(count * item));
}
#endif
