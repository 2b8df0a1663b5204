/* Indexed reads and writes: Gather*, Scatter*, TensorScatter, OneHot. Every index is checked. */
#include "ops.h"

static int32_t check_index(optc_context* ctx, const char* op, int64_t* index, int64_t dim) {
  if (*index < -dim || *index >= dim) {
    return op_fail(ctx, OPTC_RUNTIME, "%s: index %lld out of range [%lld, %lld)", op, (long long)*index,
                   (long long)-dim, (long long)dim);
  }
  if (*index < 0) *index += dim;
  return OPTC_OK;
}

/* in: data, indices; ints: axis. */
int32_t optc_op_gather(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  int64_t shape[2 * OPTC_MAX_RANK];
  OP_TRY(op_axis(ctx, "Gather", ints[0], rank, &axis));
  int32_t result = rank - 1 + in[1].rank;
  memcpy(shape, in[0].shape, (size_t)axis * sizeof *shape);
  if (in[1].rank) memcpy(shape + axis, in[1].shape, (size_t)in[1].rank * sizeof *shape);
  memcpy(shape + axis + in[1].rank, in[0].shape + axis + 1, (size_t)(rank - axis - 1) * sizeof *shape);
  OP_TRY(op_output(ctx, "Gather", &out[0], result, shape));
  int64_t dim = in[0].shape[axis], outer = op_span(in[0].shape, 0, axis), count = op_count(&in[1]);
  int64_t row = op_span(in[0].shape, axis + 1, rank) * op_itemsize(in[0].dtype);
  for (int64_t i = 0; i < count; i++) {
    int64_t index = op_get_int(&in[1], i);
    OP_TRY(check_index(ctx, "Gather", &index, dim));
    for (int64_t o = 0; o < outer; o++) {
      memcpy((char*)out[0].data + (o * count + i) * row, (const char*)in[0].data + (o * dim + index) * row,
             (size_t)row);
    }
  }
  return OPTC_OK;
}

/* in: data, indices; ints: axis. */
int32_t optc_op_gather_elements(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  int64_t strides[OPTC_MAX_RANK], index[OPTC_MAX_RANK] = {0}, item = op_itemsize(in[0].dtype);
  OP_TRY(op_axis(ctx, "GatherElements", ints[0], rank, &axis));
  if (in[1].rank != rank)
    return op_fail(ctx, OPTC_RUNTIME, "GatherElements: indices have rank %d, not %d", in[1].rank, rank);
  for (int32_t i = 0; i < rank; i++) {
    if (i != axis && in[1].shape[i] > in[0].shape[i])
      return op_fail(ctx, OPTC_RUNTIME, "GatherElements: indices exceed the data on axis %d", i);
  }
  OP_TRY(op_output(ctx, "GatherElements", &out[0], rank, in[1].shape));
  op_strides(in[0].shape, rank, 1, strides);
  int64_t count = op_count(&in[1]);
  for (int64_t i = 0; i < count; i++, op_next(index, in[1].shape, rank)) {
    int64_t at = op_get_int(&in[1], i), offset = 0;
    OP_TRY(check_index(ctx, "GatherElements", &at, in[0].shape[axis]));
    for (int32_t j = 0; j < rank; j++) offset += (j == axis ? at : index[j]) * strides[j];
    memcpy((char*)out[0].data + i * item, (const char*)in[0].data + offset * item, (size_t)item);
  }
  return OPTC_OK;
}

/* Element offset that row `i` of an index tensor [.., depth] points at, dims `first`... of `shape`. */
static int32_t nd_offset(optc_context* ctx, const char* op, const optc_tensor* indices, int64_t i, int64_t depth,
                         const int64_t* shape, const int64_t* strides, int64_t* offset) {
  *offset = 0;
  for (int64_t k = 0; k < depth; k++) {
    int64_t index = op_get_int(indices, i * depth + k);
    OP_TRY(check_index(ctx, op, &index, shape[k]));
    *offset += index * strides[k];
  }
  return OPTC_OK;
}

/* in: data, indices; ints: batch_dims. */
int32_t optc_op_gather_nd(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t batch = (int32_t)ints[0], q = in[1].rank, rank = in[0].rank;
  int64_t shape[2 * OPTC_MAX_RANK], strides[OPTC_MAX_RANK];
  if (batch < 0 || q < 1 || batch >= q || batch > rank)
    return op_fail(ctx, OPTC_RUNTIME, "GatherND: bad ranks %d and %d", rank, q);
  int64_t depth = in[1].shape[q - 1];
  if (depth > rank - batch)
    return op_fail(ctx, OPTC_RUNTIME, "GatherND: index rows of %lld for rank %d", (long long)depth, rank);
  if (batch && memcmp(in[0].shape, in[1].shape, (size_t)batch * sizeof *shape))
    return op_fail(ctx, OPTC_RUNTIME, "GatherND: batch dims differ");
  int32_t tail = batch + (int32_t)depth;
  memcpy(shape, in[1].shape, (size_t)(q - 1) * sizeof *shape);
  memcpy(shape + q - 1, in[0].shape + tail, (size_t)(rank - tail) * sizeof *shape);
  OP_TRY(op_output(ctx, "GatherND", &out[0], q - 1 + rank - tail, shape));
  op_strides(in[0].shape, rank, 1, strides);
  int64_t row = op_span(in[0].shape, tail, rank), item = op_itemsize(in[0].dtype);
  int64_t block = op_span(in[0].shape, batch, rank), rows = op_span(in[1].shape, 0, q - 1),
          each = op_span(in[1].shape, batch, q - 1);
  for (int64_t i = 0; i < rows; i++) {
    int64_t offset;
    OP_TRY(nd_offset(ctx, "GatherND", &in[1], i, depth, in[0].shape + batch, strides + batch, &offset));
    offset += i / op_max(each, 1) * block;
    memcpy((char*)out[0].data + i * row * item, (const char*)in[0].data + offset * item, (size_t)(row * item));
  }
  return OPTC_OK;
}

enum { SET, ADD, MUL, MAX, MIN };

static void combine(optc_tensor* y, int64_t at, const optc_tensor* u, int64_t from, int64_t how) {
  int64_t item = op_itemsize(y->dtype);
  if (how == SET) {
    memcpy((char*)y->data + at * item, (const char*)u->data + from * item, (size_t)item);
  } else if (op_is_float(y->dtype)) {
    double a = op_get(y, at), b = op_get(u, from);
    op_put(y, at,
           how == ADD             ? a + b
           : how == MUL           ? a * b
           : isnan(a) || isnan(b) ? NAN
           : how == MAX           ? fmax(a, b)
                                  : fmin(a, b));
  } else {
    int64_t a = op_get_int(y, at), b = op_get_int(u, from);
    int less = y->dtype == OPTC_UINT64 ? (uint64_t)a < (uint64_t)b : a < b;
    uint64_t sum = (uint64_t)a + (uint64_t)b, product = (uint64_t)a * (uint64_t)b;
    op_put_int(y, at,
               how == ADD             ? (y->dtype == OPTC_BOOL ? a | b : (int64_t)sum)
               : how == MUL           ? (int64_t)product
               : (how == MAX) == less ? b
                                      : a);
  }
}

static int32_t copy_first(optc_context* ctx, const char* op, const optc_tensor* x, optc_tensor* y) {
  OP_TRY(op_output(ctx, op, y, x->rank, x->shape));
  if (op_count(x)) memcpy(y->data, x->data, (size_t)(op_count(x) * op_itemsize(x->dtype)));
  return OPTC_OK;
}

/* in: data, indices, updates; ints: axis, reduction (none, add, mul, max, min). */
int32_t optc_op_scatter_elements(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  int64_t strides[OPTC_MAX_RANK], index[OPTC_MAX_RANK] = {0};
  OP_TRY(op_axis(ctx, "ScatterElements", ints[0], rank, &axis));
  if (in[1].rank != rank || in[2].rank != rank || memcmp(in[1].shape, in[2].shape, (size_t)rank * sizeof *strides)) {
    return op_fail(ctx, OPTC_RUNTIME, "ScatterElements: indices and updates must have one shape, of rank %d", rank);
  }
  for (int32_t i = 0; i < rank; i++) {
    if (i != axis && in[1].shape[i] > in[0].shape[i])
      return op_fail(ctx, OPTC_RUNTIME, "ScatterElements: indices exceed the data on axis %d", i);
  }
  OP_TRY(copy_first(ctx, "ScatterElements", &in[0], &out[0]));
  op_strides(in[0].shape, rank, 1, strides);
  int64_t count = op_count(&in[1]);
  for (int64_t i = 0; i < count; i++, op_next(index, in[1].shape, rank)) {
    int64_t at = op_get_int(&in[1], i), offset = 0;
    OP_TRY(check_index(ctx, "ScatterElements", &at, in[0].shape[axis]));
    for (int32_t j = 0; j < rank; j++) offset += (j == axis ? at : index[j]) * strides[j];
    combine(&out[0], offset, &in[2], i, ints[1]);
  }
  return OPTC_OK;
}

/* in: data, indices, updates; ints: reduction. */
int32_t optc_op_scatter_nd(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t q = in[1].rank, rank = in[0].rank;
  int64_t strides[OPTC_MAX_RANK], depth = q < 1 ? -1 : in[1].shape[q - 1];
  if (depth < 0 || depth > rank) return op_fail(ctx, OPTC_RUNTIME, "ScatterND: bad index rows for rank %d", rank);
  int64_t row = op_span(in[0].shape, (int32_t)depth, rank), rows = op_span(in[1].shape, 0, q - 1);
  if (op_count(&in[2]) != rows * row) {
    return op_fail(ctx, OPTC_RUNTIME, "ScatterND: %lld updates, the indices ask for %lld", (long long)op_count(&in[2]),
                   (long long)(rows * row));
  }
  OP_TRY(copy_first(ctx, "ScatterND", &in[0], &out[0]));
  op_strides(in[0].shape, rank, 1, strides);
  for (int64_t i = 0; i < rows; i++) {
    int64_t offset;
    OP_TRY(nd_offset(ctx, "ScatterND", &in[1], i, depth, in[0].shape, strides, &offset));
    for (int64_t j = 0; j < row; j++) combine(&out[0], offset + j, &in[2], i * row + j, ints[0]);
  }
  return OPTC_OK;
}

/* in: past cache, update, write indices (optional: 0); ints: axis, circular. */
int32_t optc_op_tensor_scatter(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  OP_TRY(op_axis(ctx, "TensorScatter", ints[0], rank, &axis));
  if (axis == 0 || in[1].rank != rank)
    return op_fail(ctx, OPTC_RUNTIME, "TensorScatter: the axis must not be the batch");
  for (int32_t i = 0; i < rank; i++) {
    if (i == axis ? in[1].shape[i] > in[0].shape[i] : in[1].shape[i] != in[0].shape[i]) {
      return op_fail(ctx, OPTC_RUNTIME, "TensorScatter: update does not fit the cache on axis %d", i);
    }
  }
  int indexed = op_has(in, num_in, 2);
  if (indexed && op_count(&in[2]) != in[0].shape[0])
    return op_fail(ctx, OPTC_RUNTIME, "TensorScatter: one write index a batch entry is needed");
  OP_TRY(copy_first(ctx, "TensorScatter", &in[0], &out[0]));
  int64_t room = in[0].shape[axis], steps = in[1].shape[axis],
          row = op_span(in[0].shape, axis + 1, rank) * op_itemsize(in[0].dtype);
  int64_t each = op_span(in[0].shape, 1, axis), prefixes = in[0].shape[0] * each;
  for (int64_t p = 0; p < prefixes; p++) {
    int64_t start = indexed ? op_get_int(&in[2], p / each) : 0;
    if (start < 0 || (!ints[1] && start > room - steps)) {
      return op_fail(ctx, OPTC_RUNTIME, "TensorScatter: write index %lld out of range [0, %lld]", (long long)start,
                     (long long)(room - steps));
    }
    for (int64_t s = 0; s < steps; s++) {
      memcpy((char*)out[0].data + (p * room + (start % room + s) % room) * row,
             (const char*)in[1].data + (p * steps + s) * row, (size_t)row);
    }
  }
  return OPTC_OK;
}

/* in: indices, depth, values [off, on]; ints: axis. */
int32_t optc_op_one_hot(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t depth, shape[OPTC_MAX_RANK + 1], item = op_itemsize(out[0].dtype);
  int32_t axis, rank = in[0].rank;
  OP_TRY(op_scalar(ctx, "OneHot", "depth", &in[1], &depth));
  OP_TRY(op_axis(ctx, "OneHot", ints[0], rank + 1, &axis));
  if (op_count(&in[2]) != 2) return op_fail(ctx, OPTC_RUNTIME, "OneHot: values must be [off, on]");
  memcpy(shape, in[0].shape, (size_t)axis * sizeof *shape);
  shape[axis] = depth;
  memcpy(shape + axis + 1, in[0].shape + axis, (size_t)(rank - axis) * sizeof *shape);
  OP_TRY(op_output(ctx, "OneHot", &out[0], rank + 1, shape));
  op_fill(out[0].data, op_count(&out[0]), in[2].data, item);
  int64_t inner = op_span(in[0].shape, axis, rank), count = op_count(&in[0]);
  for (int64_t i = 0; i < count; i++) {
    int64_t index = op_get_int(&in[0], i);
    if (index < 0) index += depth;
    if (index < 0 || index >= depth) continue; /* out of range: all off */
    memcpy((char*)out[0].data + ((i / inner * depth + index) * inner + i % inner) * item,
           (const char*)in[2].data + item, (size_t)item);
  }
  return OPTC_OK;
}
