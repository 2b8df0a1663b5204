/* Reductions over axes known while running (Reduce*, ArgMax, ArgMin), and scans (CumSum, CumProd). */
#include "ops.h"

enum { SUM, MEAN, MAX, MIN, PROD, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP };

/* The axes of a tensor split into those kept and those reduced, with their strides in elements. */
typedef struct axes_split {
  int32_t kept, reduced;
  int64_t kept_shape[OPTC_MAX_RANK], kept_strides[OPTC_MAX_RANK];
  int64_t reduced_shape[OPTC_MAX_RANK], reduced_strides[OPTC_MAX_RANK];
  int64_t count; /* elements of one reduction */
} axes_split;

static axes_split split_axes(const optc_tensor* x, const int32_t* is_reduced) {
  axes_split s = {.count = 1};
  int64_t strides[OPTC_MAX_RANK];
  op_strides(x->shape, x->rank, 1, strides);
  for (int32_t i = 0; i < x->rank; i++) {
    if (is_reduced[i]) {
      s.reduced_shape[s.reduced] = x->shape[i], s.reduced_strides[s.reduced++] = strides[i];
      s.count *= x->shape[i];
    } else {
      s.kept_shape[s.kept] = x->shape[i], s.kept_strides[s.kept++] = strides[i];
    }
  }
  return s;
}

static int64_t offset_of(const int64_t* index, const int64_t* strides, int32_t rank) {
  int64_t offset = 0;
  for (int32_t i = 0; i < rank; i++) offset += index[i] * strides[i];
  return offset;
}

static double reduce_floats(const double* v, int64_t n, int64_t kind) {
  double acc = kind == PROD ? 1 : kind == MAX ? -INFINITY : kind == MIN ? INFINITY : 0, top = -INFINITY;
  for (int64_t i = 0; i < n; i++) {
    switch (kind) {
      case MAX: acc = v[i] > acc || isnan(v[i]) ? v[i] : acc; break;
      case MIN: acc = v[i] < acc || isnan(v[i]) ? v[i] : acc; break;
      case PROD: acc *= v[i]; break;
      case L1: acc += fabs(v[i]); break;
      case L2:
      case SUM_SQUARE: acc += v[i] * v[i]; break;
      case LOG_SUM_EXP: top = v[i] > top ? v[i] : top; break;
      default: acc += v[i];
    }
  }
  if (kind == LOG_SUM_EXP) { /* log(sum exp(v)) = top + log(sum exp(v - top)) */
    if (isinf(top)) return top;
    for (int64_t i = 0; i < n; i++) acc += exp(v[i] - top);
    return top + log(acc);
  }
  return kind == MEAN ? acc / (double)n : kind == L2 ? sqrt(acc) : kind == LOG_SUM ? log(acc) : acc;
}

/* Integer reductions wrap like the element type; max and min compare as the type does. */
static int64_t reduce_integers(const int64_t* v, int64_t n, int64_t kind, int32_t dtype) {
  uint64_t flip = dtype == OPTC_UINT64 ? (uint64_t)1 << 63 : 0, acc = kind == PROD ? 1 : 0;
  if (kind == MAX || kind == MIN) {
    int bits = (int)op_itemsize(dtype) * 8,
        is_signed = dtype == OPTC_INT8 || dtype == OPTC_INT16 || dtype == OPTC_INT32 || dtype == OPTC_INT64;
    int64_t top = (int64_t)(UINT64_MAX >> (64 - bits + is_signed)), bottom = is_signed ? -top - 1 : 0;
    if (dtype == OPTC_BOOL) top = 1;
    acc = (uint64_t)(kind == MAX ? bottom : top);
  }
  for (int64_t i = 0; i < n; i++) {
    uint64_t x = (uint64_t)v[i];
    switch (kind) {
      case MAX: acc = (int64_t)(x ^ flip) > (int64_t)(acc ^ flip) ? x : acc; break;
      case MIN: acc = (int64_t)(x ^ flip) < (int64_t)(acc ^ flip) ? x : acc; break;
      case PROD: acc *= x; break;
      case L1: acc += v[i] < 0 && !flip ? -x : x; break;
      case SUM_SQUARE: acc += x * x; break;
      default: acc += x;
    }
  }
  return kind == MEAN && n ? (int64_t)acc / n : (int64_t)acc;
}

/* in: data, axes (optional); ints: kind, keepdims, noop_with_empty_axes, then fixed axes' count and the axes. */
int32_t optc_op_reduce(OP_ARGUMENTS) {
  OP_UNUSED;
  const optc_tensor* x = &in[0];
  int64_t kind = ints[0], shape[OPTC_MAX_RANK], index[OPTC_MAX_RANK] = {0};
  int32_t axes[OPTC_MAX_RANK], count = (int32_t)ints[3], is_reduced[OPTC_MAX_RANK] = {0}, rank = 0;
  if (op_has(in, num_in, 1)) OP_TRY(op_axes(ctx, "Reduce", &in[1], x->rank, axes, &count));
  else
    for (int32_t i = 0; i < count; i++) OP_TRY(op_axis(ctx, "Reduce", ints[4 + i], x->rank, &axes[i]));
  for (int32_t i = 0; i < count; i++) is_reduced[axes[i]] = 1;
  if (count == 0 && !ints[2])
    for (int32_t i = 0; i < x->rank; i++) is_reduced[i] = 1;
  for (int32_t i = 0; i < x->rank; i++) {
    if (!is_reduced[i]) shape[rank++] = x->shape[i];
    else if (ints[1]) shape[rank++] = 1;
  }
  OP_TRY(op_output(ctx, "Reduce", &out[0], rank, shape));
  int64_t total = op_count(&out[0]);
  if (total == 0) return OPTC_OK;
  axes_split s = split_axes(x, is_reduced);
  int exact = !op_is_float(x->dtype) && kind != L2 && kind != LOG_SUM && kind != LOG_SUM_EXP;
  double* values;
  OP_TRY(op_scratch(ctx, s.count, sizeof *values, (void**)&values));
  for (int64_t i = 0; i < total; i++, op_next(index, s.kept_shape, s.kept)) {
    int64_t base = offset_of(index, s.kept_strides, s.kept), inner[OPTC_MAX_RANK] = {0};
    for (int64_t j = 0; j < s.count; j++, op_next(inner, s.reduced_shape, s.reduced)) {
      int64_t at = base + offset_of(inner, s.reduced_strides, s.reduced);
      if (exact) ((int64_t*)values)[j] = op_get_int(x, at);
      else values[j] = op_get(x, at);
    }
    if (exact) op_put_int(&out[0], i, reduce_integers((int64_t*)values, s.count, kind, x->dtype));
    else op_put(&out[0], i, reduce_floats(values, s.count, kind));
  }
  optc_release(ctx, values);
  return OPTC_OK;
}

/* in: data; out: int64; ints: axis, keepdims, select_last_index, is_min. */
int32_t optc_op_arg_reduce(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = 0;
  int64_t shape[OPTC_MAX_RANK];
  OP_TRY(op_axis(ctx, "ArgMax/ArgMin", ints[0], in[0].rank, &axis));
  for (int32_t i = 0; i < in[0].rank; i++) {
    if (i != axis) shape[rank++] = in[0].shape[i];
    else if (ints[1]) shape[rank++] = 1;
  }
  int64_t n = in[0].shape[axis], inner = op_span(in[0].shape, axis + 1, in[0].rank);
  OP_TRY(op_output(ctx, "ArgMax/ArgMin", &out[0], rank, shape));
  int64_t total = op_count(&out[0]);
  if (n == 0 && total) return op_fail(ctx, OPTC_RUNTIME, "ArgMax/ArgMin: the axis is empty");
  for (int64_t i = 0; i < total; i++) {
    int64_t base = i / inner * n * inner + i % inner, best = 0;
    for (int64_t j = 1; j < n; j++) {
      double v = op_get(&in[0], base + j * inner), top = op_get(&in[0], base + best * inner);
      if ((ints[3] ? v < top : v > top) || (ints[2] && v == top)) best = j;
    }
    ((int64_t*)out[0].data)[i] = best;
  }
  return OPTC_OK;
}

/* in: data, axis; ints: exclusive, reverse, product. */
int32_t optc_op_cumulate(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t value;
  int32_t axis;
  OP_TRY(op_scalar(ctx, "CumSum/CumProd", "axis", &in[1], &value));
  OP_TRY(op_axis(ctx, "CumSum/CumProd", value, in[0].rank, &axis));
  OP_TRY(op_output(ctx, "CumSum/CumProd", &out[0], in[0].rank, in[0].shape));
  int64_t n = in[0].shape[axis], inner = op_span(in[0].shape, axis + 1, in[0].rank);
  int64_t lines = op_span(in[0].shape, 0, axis) * inner;
  int whole = !op_is_float(in[0].dtype);
  for (int64_t line = 0; line < lines; line++) {
    int64_t base = line / inner * n * inner + line % inner, exact = ints[2];
    double acc = (double)ints[2];
    for (int64_t j = 0; j < n; j++) {
      int64_t at = base + (ints[1] ? n - 1 - j : j) * inner;
      double before = acc;
      int64_t exact_before = exact;
      if (whole)
        exact = (int64_t)(ints[2] ? (uint64_t)exact * (uint64_t)op_get_int(&in[0], at)
                                  : (uint64_t)exact + (uint64_t)op_get_int(&in[0], at));
      else acc = ints[2] ? acc * op_get(&in[0], at) : acc + op_get(&in[0], at);
      if (whole) op_put_int(&out[0], at, ints[0] ? exact_before : exact);
      else op_put(&out[0], at, ints[0] ? before : acc);
    }
  }
  return OPTC_OK;
}
