/* What generated programs (backends/program.py) use besides program.h: exact integer arithmetic on dims and the moves of
 * tensors whose shape is known only while running. */
#ifndef OPTC_GENERATED_H
#define OPTC_GENERATED_H
#include <string.h>
#include "program.h"

static inline int64_t optc_floordiv(int64_t a, int64_t b) {
  int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}
static inline int64_t optc_mod(int64_t a, int64_t b) { return a - b * optc_floordiv(a, b); }
static inline int64_t optc_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t optc_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t optc_itemsize(int32_t dtype) {
  switch (dtype) {
    case OPTC_UINT8: case OPTC_INT8: case OPTC_BOOL: return 1;
    case OPTC_UINT16: case OPTC_INT16: case OPTC_FLOAT16: case OPTC_BFLOAT16: return 2;
    case OPTC_FLOAT32: case OPTC_INT32: case OPTC_UINT32: return 4;
    case OPTC_COMPLEX128: return 16;
    default: return 8;
  }
}

static inline int64_t optc_bytes(const optc_tensor* t) {
  int64_t n = optc_itemsize(t->dtype);
  for (int32_t i = 0; i < t->rank; i++) n *= t->shape[i];
  return n;
}

/* Copies rows of `bytes` bytes that lie apart by the pitches, in bytes. */
static inline int32_t optc_copy_rows(char* to, const char* from, int64_t rows, int64_t bytes, int64_t to_pitch,
                                     int64_t from_pitch) {
  for (int64_t row = 0; row < rows; row++) memcpy(to + row * to_pitch, from + row * from_pitch, (size_t)bytes);
  return OPTC_OK;
}

/* Makes *to a copy of `from` in memory of its own, releasing what *to held (NULL at first). */
static inline int32_t optc_assign(optc_context* context, optc_tensor* to, optc_tensor from) {
  int64_t bytes = optc_bytes(&from);
  void* old = to->data;
  void* data = optc_alloc(context, bytes);
  if (!data) return OPTC_OUT_OF_MEMORY;
  if (bytes) memcpy(data, from.data, (size_t)bytes);
  *to = from;
  to->data = data;
  if (old) optc_release(context, old);
  return OPTC_OK;
}

/* Appends `piece` to *all along a new first axis; `capacity` (pieces) grows by doubling. */
static inline int32_t optc_append(optc_context* context, optc_tensor* all, int64_t* capacity, optc_tensor piece) {
  int64_t bytes = optc_bytes(&piece), count = all->shape[0];
  if (count == 0) {
    all->rank = piece.rank + 1;
    memcpy(all->shape + 1, piece.shape, sizeof(int64_t) * (size_t)piece.rank);
  } else if (memcmp(all->shape + 1, piece.shape, sizeof(int64_t) * (size_t)piece.rank) != 0) {
    return optc_fail(context, OPTC_RUNTIME, "a scan output changes its shape between iterations");
  }
  if (count == *capacity) {
    int64_t wanted = count ? 2 * count : 4;
    char* data = optc_alloc(context, wanted * bytes);
    if (!data) return OPTC_OUT_OF_MEMORY;
    if (count) memcpy(data, all->data, (size_t)(count * bytes));
    if (all->data) optc_release(context, all->data);
    all->data = data;
    *capacity = wanted;
  }
  if (bytes) memcpy((char*)all->data + count * bytes, piece.data, (size_t)bytes);
  all->shape[0] = count + 1;
  return OPTC_OK;
}

/* Puts `piece` at position `at` of *all, whose first dim counts the pieces; the first call fixes the shape of them. */
static inline int32_t optc_place(optc_context* context, optc_tensor* all, int first, int64_t at, optc_tensor piece) {
  const size_t bytes = (size_t)optc_bytes(&piece), dims = sizeof(int64_t) * (size_t)piece.rank;
  if (first) {
    all->rank = piece.rank + 1;
    memcpy(all->shape + 1, piece.shape, dims);
    all->data = optc_alloc(context, optc_bytes(all));
    if (!all->data) return OPTC_OUT_OF_MEMORY;
  } else if (memcmp(all->shape + 1, piece.shape, dims) != 0) {
    return optc_fail(context, OPTC_RUNTIME, "a scan output changes its shape between iterations");
  }
  if (bytes) memcpy((char*)all->data + (size_t)at * bytes, piece.data, bytes);
  return OPTC_OK;
}

/* A run-time check of something shape inference had to assume. */
#define OPTC_REQUIRE(condition, ...)                                              \
  do {                                                                            \
    if (!(condition)) return optc_fail(context, OPTC_BAD_INPUT, __VA_ARGS__);     \
  } while (0)

#endif
