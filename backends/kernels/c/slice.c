/* Pieces of tensors: Slice, Pad, Split, Concat, CenterCropPad, Trilu, EyeLike, Range, ReverseSequence, Transpose. */
#include "ops.h"

/* in: data, starts, ends, axes (optional), steps (optional). */
int32_t optc_op_slice(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t starts[OPTC_MAX_RANK], ends[OPTC_MAX_RANK], steps[OPTC_MAX_RANK], shape[OPTC_MAX_RANK];
  int64_t from[OPTC_MAX_RANK], to[OPTC_MAX_RANK], item = op_itemsize(in[0].dtype);
  int32_t axes[OPTC_MAX_RANK], count, other, rank = in[0].rank;
  OP_TRY(op_list(ctx, "Slice", &in[1], OPTC_MAX_RANK, starts, &count));
  OP_TRY(op_list(ctx, "Slice", &in[2], OPTC_MAX_RANK, ends, &other));
  if (other != count || count > rank)
    return op_fail(ctx, OPTC_RUNTIME, "Slice: %d starts and %d ends for rank %d", count, other, rank);
  for (int32_t i = 0; i < count; i++) axes[i] = i, steps[i] = 1;
  if (op_has(in, num_in, 3)) OP_TRY(op_axes(ctx, "Slice", &in[3], rank, axes, &other));
  if (other != count) return op_fail(ctx, OPTC_RUNTIME, "Slice: %d axes for %d starts", other, count);
  if (op_has(in, num_in, 4)) OP_TRY(op_list(ctx, "Slice", &in[4], OPTC_MAX_RANK, steps, &other));
  if (other != count) return op_fail(ctx, OPTC_RUNTIME, "Slice: %d steps for %d starts", other, count);
  memcpy(shape, in[0].shape, sizeof shape);
  op_strides(shape, rank, item, from);
  const char* base = in[0].data;
  for (int32_t i = 0; i < count; i++) {
    int32_t axis = axes[i];
    int64_t dim = in[0].shape[axis], step = steps[i];
    if (step == 0 || step == INT64_MIN)
      return op_fail(ctx, OPTC_RUNTIME, "Slice: bad step %lld of axis %d", (long long)step, axis);
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? dim : dim - 1;
    int64_t start = op_clamp(starts[i] < 0 ? starts[i] + dim : starts[i], op_max(low, 0), high);
    int64_t end = op_clamp(ends[i] < 0 ? op_max(ends[i] + dim, -1) : ends[i], low, high);
    if (dim == 0) start = end = 0;
    shape[axis] =
        step > 0 ? (end > start ? (end - start - 1) / step + 1 : 0) : (start > end ? (start - end - 1) / -step + 1 : 0);
    if (shape[axis]) base += start * from[axis];
    if (shape[axis] > 1) from[axis] *= step;
  }
  OP_TRY(op_output(ctx, "Slice", &out[0], rank, shape));
  op_strides(shape, rank, item, to);
  op_copy(out[0].data, to, base, from, shape, rank, item);
  return OPTC_OK;
}

enum { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP };

/* Where element i of the padded axis comes from in [0, dim), or -1. */
static int64_t pad_source(int64_t i, int64_t dim, int64_t mode) {
  if (i >= 0 && i < dim) return i;
  if (mode == PAD_CONSTANT || dim == 0) return -1;
  if (mode == PAD_EDGE) return op_clamp(i, 0, dim - 1);
  int64_t period = mode == PAD_WRAP ? dim : op_max(2 * (dim - 1), 1);
  i = (i % period + period) % period;
  return mode == PAD_REFLECT && i >= dim ? period - i : i;
}

/* in: data, pads, constant value (optional), axes (optional); ints: mode (constant, reflect, edge, wrap). */
int32_t optc_op_pad(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t pads[2 * OPTC_MAX_RANK], begin[OPTC_MAX_RANK] = {0}, shape[OPTC_MAX_RANK], strides[OPTC_MAX_RANK];
  int64_t item = op_itemsize(in[0].dtype), entries = 0;
  int32_t axes[OPTC_MAX_RANK], count, given, rank = in[0].rank;
  for (count = 0; count < rank; count++) axes[count] = count;
  if (op_has(in, num_in, 3)) OP_TRY(op_axes(ctx, "Pad", &in[3], rank, axes, &count));
  OP_TRY(op_list(ctx, "Pad", &in[1], 2 * OPTC_MAX_RANK, pads, &given));
  if (given != 2 * count) return op_fail(ctx, OPTC_RUNTIME, "Pad: %d pads for %d axes", given, count);
  memcpy(shape, in[0].shape, sizeof shape);
  for (int32_t i = 0; i < count; i++) {
    begin[axes[i]] = pads[i];
    if (__builtin_add_overflow(shape[axes[i]], pads[i], &shape[axes[i]]) ||
        __builtin_add_overflow(shape[axes[i]], pads[count + i], &shape[axes[i]]) || shape[axes[i]] < 0) {
      return op_fail(ctx, OPTC_RUNTIME, "Pad: pads %lld and %lld do not fit axis %d", (long long)pads[i],
                     (long long)pads[count + i], axes[i]);
    }
  }
  OP_TRY(op_output(ctx, "Pad", &out[0], rank, shape));
  int64_t total = op_count(&out[0]);
  if (total == 0) return OPTC_OK;
  const void* value = op_has(in, num_in, 2) && op_count(&in[2]) ? in[2].data : NULL;
  for (int32_t i = 0; i < rank; i++) entries += shape[i];
  int64_t *maps = NULL, *map[OPTC_MAX_RANK], index[OPTC_MAX_RANK] = {0};
  OP_TRY(op_scratch(ctx, entries, sizeof *maps, (void**)&maps));
  op_strides(in[0].shape, rank, item, strides);
  int64_t* next = maps;
  for (int32_t i = 0; i < rank; next += shape[i++]) { /* per axis: byte offset of the source, -1 outside */
    map[i] = next;
    for (int64_t j = 0; j < shape[i]; j++) {
      int64_t source = pad_source(j - begin[i], in[0].shape[i], ints[0]);
      map[i][j] = source < 0 ? -1 : source * strides[i];
    }
  }
  char* to = out[0].data;
  do {
    int64_t offset = 0, inside = 1;
    for (int32_t i = 0; i < rank; i++) {
      inside &= map[i][index[i]] >= 0;
      offset += map[i][index[i]];
    }
    if (inside) memcpy(to, (const char*)in[0].data + offset, (size_t)item);
    else op_fill(to, 1, value, item);
    to += item;
  } while (op_next(index, shape, rank));
  optc_release(ctx, maps);
  return OPTC_OK;
}

/* in: data, sizes (optional: equal parts, the last may be smaller); ints: axis. */
int32_t optc_op_split(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  int64_t shape[OPTC_MAX_RANK], from[OPTC_MAX_RANK], to[OPTC_MAX_RANK], at = 0, item = op_itemsize(in[0].dtype);
  OP_TRY(op_axis(ctx, "Split", ints[0], rank, &axis));
  memcpy(shape, in[0].shape, sizeof shape);
  op_strides(shape, rank, item, from);
  int64_t dim = shape[axis], part = (dim + num_out - 1) / num_out;
  int sized = op_has(in, num_in, 1);
  if (sized && op_count(&in[1]) != num_out) {
    return op_fail(ctx, OPTC_RUNTIME, "Split: %lld sizes for %d outputs", (long long)op_count(&in[1]), num_out);
  }
  for (int32_t i = 0; i < num_out; i++) {
    shape[axis] = sized ? op_get_int(&in[1], i) : op_max(op_min(part, dim - at), 0);
    if (shape[axis] < 0 || shape[axis] > dim - at) {
      return op_fail(ctx, OPTC_RUNTIME, "Split: size %lld of output %d does not fit axis of %lld",
                     (long long)shape[axis], i, (long long)dim);
    }
    OP_TRY(op_output(ctx, "Split", &out[i], rank, shape));
    op_strides(shape, rank, item, to);
    op_copy(out[i].data, to, (const char*)in[0].data + at * from[axis], from, shape, rank, item);
    at += shape[axis];
  }
  return at == dim
             ? OPTC_OK
             : op_fail(ctx, OPTC_RUNTIME, "Split: sizes sum to %lld, the axis has %lld", (long long)at, (long long)dim);
}

/* in: one or more tensors; ints: axis. */
int32_t optc_op_concat(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  int64_t shape[OPTC_MAX_RANK], from[OPTC_MAX_RANK], to[OPTC_MAX_RANK], at = 0, item = op_itemsize(in[0].dtype);
  OP_TRY(op_axis(ctx, "Concat", ints[0], rank, &axis));
  memcpy(shape, in[0].shape, sizeof shape);
  for (int32_t i = 1; i < num_in; i++) {
    if (in[i].rank != rank)
      return op_fail(ctx, OPTC_RUNTIME, "Concat: input %d has rank %d, not %d", i, in[i].rank, rank);
    for (int32_t j = 0; j < rank; j++) {
      if (j == axis) shape[j] += in[i].shape[j];
      else if (in[i].shape[j] != shape[j]) {
        return op_fail(ctx, OPTC_RUNTIME, "Concat: input %d has size %lld on axis %d, not %lld", i,
                       (long long)in[i].shape[j], j, (long long)shape[j]);
      }
    }
  }
  OP_TRY(op_output(ctx, "Concat", &out[0], rank, shape));
  op_strides(shape, rank, item, to);
  for (int32_t i = 0; i < num_in; at += in[i++].shape[axis]) {
    op_strides(in[i].shape, rank, item, from);
    op_copy((char*)out[0].data + at * to[axis], to, in[i].data, from, in[i].shape, rank, item);
  }
  return OPTC_OK;
}

/* in: data, shape; ints: axes, one for each number of the shape. */
int32_t optc_op_center_crop_pad(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t want[OPTC_MAX_RANK], shape[OPTC_MAX_RANK], part[OPTC_MAX_RANK], from[OPTC_MAX_RANK], to[OPTC_MAX_RANK];
  int64_t item = op_itemsize(in[0].dtype), read_at = 0, write_at = 0;
  int32_t count, rank = in[0].rank;
  OP_TRY(op_list(ctx, "CenterCropPad", &in[1], rank, want, &count));
  memcpy(shape, in[0].shape, sizeof shape);
  memcpy(part, shape, sizeof shape);
  for (int32_t i = 0; i < count; i++) {
    int32_t axis;
    OP_TRY(op_axis(ctx, "CenterCropPad", ints[i], rank, &axis));
    shape[axis] = want[i];
  }
  OP_TRY(op_output(ctx, "CenterCropPad", &out[0], rank, shape));
  op_strides(in[0].shape, rank, item, from);
  op_strides(shape, rank, item, to);
  for (int32_t i = 0; i < rank; i++) { /* crop and pad keep the odd element at the end */
    part[i] = op_min(shape[i], in[0].shape[i]);
    read_at += (in[0].shape[i] - part[i]) / 2 * from[i];
    write_at += (shape[i] - part[i]) / 2 * to[i];
  }
  op_fill(out[0].data, op_count(&out[0]), NULL, item);
  op_copy((char*)out[0].data + write_at, to, (const char*)in[0].data + read_at, from, part, rank, item);
  return OPTC_OK;
}

/* in: data, k (optional); ints: upper. */
int32_t optc_op_trilu(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t k = 0, item = op_itemsize(in[0].dtype);
  int32_t rank = in[0].rank;
  if (rank < 2) return op_fail(ctx, OPTC_RUNTIME, "Trilu: input has rank %d, it needs 2", rank);
  if (op_has(in, num_in, 1)) OP_TRY(op_scalar(ctx, "Trilu", "k", &in[1], &k));
  OP_TRY(op_output(ctx, "Trilu", &out[0], rank, in[0].shape));
  int64_t rows = in[0].shape[rank - 2], cols = in[0].shape[rank - 1], count = op_count(&in[0]);
  if (count == 0) return OPTC_OK;
  memcpy(out[0].data, in[0].data, (size_t)(count * item));
  k = op_clamp(k, -rows, cols);
  for (int64_t row = 0; row < count / cols; row++) {
    int64_t r = row % rows;
    int64_t first = ints[0] ? 0 : op_clamp(r + k + 1, 0, cols), last = ints[0] ? op_clamp(r + k, 0, cols) : cols;
    if (last > first) memset((char*)out[0].data + (row * cols + first) * item, 0, (size_t)((last - first) * item));
  }
  return OPTC_OK;
}

/* in: a matrix, for its shape; ints: k. */
int32_t optc_op_eye_like(OP_ARGUMENTS) {
  OP_UNUSED;
  if (in[0].rank != 2) return op_fail(ctx, OPTC_RUNTIME, "EyeLike: input has rank %d, not 2", in[0].rank);
  OP_TRY(op_output(ctx, "EyeLike", &out[0], 2, in[0].shape));
  op_fill(out[0].data, op_count(&out[0]), NULL, op_itemsize(out[0].dtype));
  for (int64_t r = op_max(0, -ints[0]); r < in[0].shape[0] && r + ints[0] < in[0].shape[1]; r++) {
    op_put(&out[0], r * in[0].shape[1] + r + ints[0], 1);
  }
  return OPTC_OK;
}

/* in: start, limit, delta (scalars). */
int32_t optc_op_range(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t count = 0, unused;
  for (int32_t i = 0; i < 3; i++) OP_TRY(op_scalar(ctx, "Range", "start, limit or delta", &in[i], &unused));
  if (op_is_float(in[0].dtype)) {
    double start = op_get(&in[0], 0), delta = op_get(&in[2], 0), n = ceil((op_get(&in[1], 0) - start) / delta);
    if (!(delta != 0) || !(n < 0x1p62))
      return op_fail(ctx, OPTC_RUNTIME, "Range: delta %g gives no finite range", delta);
    count = n > 0 ? (int64_t)n : 0;
    OP_TRY(op_output(ctx, "Range", &out[0], 1, &count));
    for (int64_t i = 0; i < count; i++) op_put(&out[0], i, start + (double)i * delta);
    return OPTC_OK;
  }
  int64_t start = op_get_int(&in[0], 0), limit = op_get_int(&in[1], 0), delta = op_get_int(&in[2], 0), gap;
  if (delta == 0 || __builtin_sub_overflow(limit, start, &gap))
    return op_fail(ctx, OPTC_RUNTIME, "Range: delta is zero, or the range too wide");
  if (gap != 0 && (gap > 0) == (delta > 0)) count = gap / delta + (gap % delta != 0);
  OP_TRY(op_output(ctx, "Range", &out[0], 1, &count));
  for (int64_t i = 0; i < count; i++) op_put_int(&out[0], i, start + i * delta);
  return OPTC_OK;
}

/* in: data, sequence_lens; ints: batch axis, time axis (0 and 1 in some order). */
int32_t optc_op_reverse_sequence(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t rank = in[0].rank;
  if (rank < 2 || ints[0] + ints[1] != 1) return op_fail(ctx, OPTC_RUNTIME, "ReverseSequence: axes must be 0 and 1");
  OP_TRY(op_output(ctx, "ReverseSequence", &out[0], rank, in[0].shape));
  int64_t batch = in[0].shape[ints[0]], steps = in[0].shape[ints[1]];
  int64_t row = op_span(in[0].shape, 2, rank) * op_itemsize(in[0].dtype);
  int64_t batch_step = ints[0] == 0 ? steps * row : row, time_step = ints[0] == 0 ? row : batch * row;
  if (op_count(&in[1]) != batch)
    return op_fail(ctx, OPTC_RUNTIME, "ReverseSequence: %lld lengths for a batch of %lld", (long long)op_count(&in[1]),
                   (long long)batch);
  for (int64_t b = 0; b < batch; b++) {
    int64_t length = op_get_int(&in[1], b);
    if (length < 0 || length > steps)
      return op_fail(ctx, OPTC_RUNTIME, "ReverseSequence: length %lld out of range [0, %lld]", (long long)length,
                     (long long)steps);
    for (int64_t t = 0; t < steps; t++) {
      int64_t from = t < length ? length - 1 - t : t;
      memcpy((char*)out[0].data + b * batch_step + t * time_step,
             (const char*)in[0].data + b * batch_step + from * time_step, (size_t)row);
    }
  }
  return OPTC_OK;
}

/* in: data; ints: the permutation, one number a dim. */
int32_t optc_op_transpose(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t shape[OPTC_MAX_RANK], own[OPTC_MAX_RANK], from[OPTC_MAX_RANK], to[OPTC_MAX_RANK],
      item = op_itemsize(in[0].dtype);
  op_strides(in[0].shape, in[0].rank, item, own);
  for (int32_t i = 0; i < in[0].rank; i++) shape[i] = in[0].shape[ints[i]], from[i] = own[ints[i]];
  OP_TRY(op_output(ctx, "Transpose", &out[0], in[0].rank, shape));
  op_strides(shape, in[0].rank, item, to);
  op_copy(out[0].data, to, in[0].data, from, shape, in[0].rank, item);
  return OPTC_OK;
}
