/* Shapes that become known while running: Reshape and its kin, Expand, Tile, ConstantOfShape, Shape, Size, Cast. */
#include "ops.h"

static int32_t copy_as(optc_context* ctx, const char* op, const optc_tensor* x, optc_tensor* y, int32_t rank,
                       const int64_t* shape) {
  OP_TRY(op_output(ctx, op, y, rank, shape));
  if (op_count(x)) memcpy(y->data, x->data, (size_t)(op_count(x) * op_itemsize(x->dtype)));
  return OPTC_OK;
}

/* in: data; out: the same. */
int32_t optc_op_identity(OP_ARGUMENTS) {
  OP_UNUSED;
  return copy_as(ctx, "Identity", &in[0], &out[0], in[0].rank, in[0].shape);
}

/* in: data, shape; ints: allowzero. */
int32_t optc_op_reshape(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t shape[OPTC_MAX_RANK], known = 1, total = op_count(&in[0]);
  int32_t rank, wild = -1;
  char text[200];
  OP_TRY(op_list(ctx, "Reshape", &in[1], OPTC_MAX_RANK, shape, &rank));
  for (int32_t i = 0; i < rank; i++) {
    if (shape[i] == 0 && !ints[0]) {
      if (i >= in[0].rank)
        return op_fail(ctx, OPTC_RUNTIME, "Reshape: dim %d is 0 (copy), but the input has rank %d", i, in[0].rank);
      shape[i] = in[0].shape[i];
    }
    if (shape[i] == -1 && wild < 0) wild = i;
    else if (shape[i] < 0) return op_fail(ctx, OPTC_RUNTIME, "Reshape: bad shape %s", op_shape_text(shape, rank, text));
    else if (__builtin_mul_overflow(known, shape[i], &known))
      return op_fail(ctx, OPTC_RUNTIME, "Reshape: shape overflows");
  }
  if (wild >= 0) shape[wild] = known ? total / known : 0;
  if (known * (wild >= 0 ? shape[wild] : 1) != total) {
    return op_fail(ctx, OPTC_RUNTIME, "Reshape: %lld elements do not fit shape %s", (long long)total,
                   op_shape_text(shape, rank, text));
  }
  return copy_as(ctx, "Reshape", &in[0], &out[0], rank, shape);
}

/* in: data; ints: axis, which may be the rank. */
int32_t optc_op_flatten(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  OP_TRY(op_axis(ctx, "Flatten", ints[0] < 0 ? ints[0] + rank : ints[0], rank + 1, &axis));
  int64_t shape[2] = {op_span(in[0].shape, 0, axis), op_span(in[0].shape, axis, rank)};
  return copy_as(ctx, "Flatten", &in[0], &out[0], 2, shape);
}

/* in: data, axes (optional: all dims of 1). */
int32_t optc_op_squeeze(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axes[OPTC_MAX_RANK], count = 0, rank = 0, drop[OPTC_MAX_RANK] = {0};
  int64_t shape[OPTC_MAX_RANK];
  if (op_has(in, num_in, 1)) OP_TRY(op_axes(ctx, "Squeeze", &in[1], in[0].rank, axes, &count));
  else
    for (int32_t i = 0; i < in[0].rank; i++) drop[i] = in[0].shape[i] == 1;
  for (int32_t i = 0; i < count; i++) {
    if (in[0].shape[axes[i]] != 1) {
      return op_fail(ctx, OPTC_RUNTIME, "Squeeze: axis %d has size %lld, not 1", axes[i],
                     (long long)in[0].shape[axes[i]]);
    }
    drop[axes[i]] = 1;
  }
  for (int32_t i = 0; i < in[0].rank; i++)
    if (!drop[i]) shape[rank++] = in[0].shape[i];
  return copy_as(ctx, "Squeeze", &in[0], &out[0], rank, shape);
}

/* in: data, axes. */
int32_t optc_op_unsqueeze(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axes[OPTC_MAX_RANK], count, added[OPTC_MAX_RANK] = {0}, from = 0;
  int64_t shape[OPTC_MAX_RANK], extra = op_count(&in[1]);
  if (in[0].rank + extra > OPTC_MAX_RANK)
    return op_fail(ctx, OPTC_RUNTIME, "Unsqueeze: more than %d dims", OPTC_MAX_RANK);
  int32_t rank = in[0].rank + (int32_t)extra;
  OP_TRY(op_axes(ctx, "Unsqueeze", &in[1], rank, axes, &count));
  for (int32_t i = 0; i < count; i++) added[axes[i]] = 1;
  for (int32_t i = 0; i < rank; i++) shape[i] = added[i] ? 1 : in[0].shape[from++];
  return copy_as(ctx, "Unsqueeze", &in[0], &out[0], rank, shape);
}

/* in: data, shape (broadcast both ways). */
int32_t optc_op_expand(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t want[OPTC_MAX_RANK], shape[OPTC_MAX_RANK], strides[OPTC_MAX_RANK], to[OPTC_MAX_RANK],
      item = op_itemsize(in[0].dtype);
  int32_t count;
  OP_TRY(op_list(ctx, "Expand", &in[1], OPTC_MAX_RANK, want, &count));
  int32_t rank = count > in[0].rank ? count : in[0].rank;
  int64_t own[OPTC_MAX_RANK];
  op_strides(in[0].shape, in[0].rank, item, own);
  for (int32_t i = 0; i < rank; i++) {
    int32_t a = i - rank + in[0].rank, b = i - rank + count;
    int64_t da = a < 0 ? 1 : in[0].shape[a], db = b < 0 ? 1 : want[b];
    if (da != db && da != 1 && db != 1) {
      return op_fail(ctx, OPTC_RUNTIME, "Expand: dim %lld does not broadcast to %lld", (long long)da, (long long)db);
    }
    shape[i] = da == 1 ? db : da;
    strides[i] = da == 1 ? 0 : own[a];
  }
  OP_TRY(op_output(ctx, "Expand", &out[0], rank, shape));
  op_strides(shape, rank, item, to);
  op_copy(out[0].data, to, in[0].data, strides, shape, rank, item);
  return OPTC_OK;
}

/* in: data, repeats. */
int32_t optc_op_tile(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t repeats[OPTC_MAX_RANK], shape[OPTC_MAX_RANK], own[OPTC_MAX_RANK], whole[OPTC_MAX_RANK];
  int64_t split[OP_MAX_AXES], from[OP_MAX_AXES], to[OP_MAX_AXES], item = op_itemsize(in[0].dtype);
  int32_t count, rank = in[0].rank;
  OP_TRY(op_list(ctx, "Tile", &in[1], OPTC_MAX_RANK, repeats, &count));
  if (count != rank) return op_fail(ctx, OPTC_RUNTIME, "Tile: %d repeats for rank %d", count, rank);
  for (int32_t i = 0; i < rank; i++) {
    if (repeats[i] < 0 || __builtin_mul_overflow(in[0].shape[i], repeats[i], &shape[i])) {
      return op_fail(ctx, OPTC_RUNTIME, "Tile: bad repeat %lld of axis %d", (long long)repeats[i], i);
    }
  }
  OP_TRY(op_output(ctx, "Tile", &out[0], rank, shape));
  op_strides(in[0].shape, rank, item, own);
  op_strides(shape, rank, item, whole);
  for (int32_t i = 0; i < rank; i++) { /* axis i as (repeat, element): the repeats read the same source */
    split[2 * i] = repeats[i], split[2 * i + 1] = in[0].shape[i];
    from[2 * i] = 0, from[2 * i + 1] = own[i];
    to[2 * i] = whole[i] * in[0].shape[i], to[2 * i + 1] = whole[i];
  }
  op_copy(out[0].data, to, in[0].data, from, split, 2 * rank, item);
  return OPTC_OK;
}

/* in: shape; ints: 16 bytes that begin with the value's element. */
int32_t optc_op_constant_of_shape(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t shape[OPTC_MAX_RANK];
  int32_t rank;
  OP_TRY(op_list(ctx, "ConstantOfShape", &in[0], OPTC_MAX_RANK, shape, &rank));
  OP_TRY(op_output(ctx, "ConstantOfShape", &out[0], rank, shape));
  op_fill(out[0].data, op_count(&out[0]), ints, op_itemsize(out[0].dtype));
  return OPTC_OK;
}

/* in: data; out: int64 dims; ints: start, end (out of range is clamped). */
int32_t optc_op_shape(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t rank = in[0].rank;
  int64_t start = op_clamp(ints[0] < 0 ? ints[0] + rank : ints[0], 0, rank);
  int64_t count = op_max(op_clamp(ints[1] < 0 ? ints[1] + rank : ints[1], 0, rank) - start, 0);
  OP_TRY(op_output(ctx, "Shape", &out[0], 1, &count));
  for (int64_t i = 0; i < count; i++) ((int64_t*)out[0].data)[i] = in[0].shape[start + i];
  return OPTC_OK;
}

/* in: data; out: int64 scalar. */
int32_t optc_op_size(OP_ARGUMENTS) {
  OP_UNUSED;
  OP_TRY(op_output(ctx, "Size", &out[0], 0, NULL));
  *(int64_t*)out[0].data = op_count(&in[0]);
  return OPTC_OK;
}

/* in: data; out: the same elements in the output's dtype (float to integer truncates). */
int32_t optc_op_cast(OP_ARGUMENTS) {
  OP_UNUSED;
  OP_TRY(op_output(ctx, "Cast", &out[0], in[0].rank, in[0].shape));
  int64_t count = op_count(&in[0]);
  int whole = !op_is_float(in[0].dtype) && !op_is_float(out[0].dtype) && out[0].dtype != OPTC_BOOL;
  for (int64_t i = 0; i < count; i++) {
    if (whole) op_put_int(&out[0], i, op_get_int(&in[0], i));
    else op_put(&out[0], i, op_get(&in[0], i));
  }
  return OPTC_OK;
}

/* in: data; out: the same bytes as the output's dtype, of equal size. */
int32_t optc_op_bit_cast(OP_ARGUMENTS) {
  OP_UNUSED;
  return copy_as(ctx, "BitCast", &in[0], &out[0], in[0].rank, in[0].shape);
}
