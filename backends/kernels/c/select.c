/* Outputs whose size depends on data, and orderings: NonZero, Compress, Unique, TopK, NonMaxSuppression. */
#include <stdlib.h>
#include "ops.h"

/* in: data; out: int64 [rank, count]. */
int32_t optc_op_non_zero(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t total = op_count(&in[0]), found = 0, at = 0, index[OPTC_MAX_RANK] = {0};
  for (int64_t i = 0; i < total; i++) found += op_get(&in[0], i) != 0;
  int64_t shape[2] = {in[0].rank, found};
  OP_TRY(op_output(ctx, "NonZero", &out[0], 2, shape));
  for (int64_t i = 0; i < total; i++, op_next(index, in[0].shape, in[0].rank)) {
    if (op_get(&in[0], i) == 0) continue;
    for (int32_t d = 0; d < in[0].rank; d++) ((int64_t*)out[0].data)[d * found + at] = index[d];
    at++;
  }
  return OPTC_OK;
}

/* in: data, condition; ints: has an axis, axis. */
int32_t optc_op_compress(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis = 0, rank = ints[0] ? in[0].rank : 1;
  int64_t shape[OPTC_MAX_RANK] = {op_count(&in[0])}, kept = 0, at = 0;
  if (ints[0]) {
    OP_TRY(op_axis(ctx, "Compress", ints[1], rank, &axis));
    memcpy(shape, in[0].shape, sizeof shape);
  }
  int64_t dim = shape[axis], flags = op_count(&in[1]), row = op_span(shape, axis + 1, rank) * op_itemsize(in[0].dtype);
  int64_t outer = op_span(shape, 0, axis);
  for (int64_t i = 0; i < flags; i++) kept += op_get(&in[1], i) != 0;
  if (flags > dim)
    return op_fail(ctx, OPTC_RUNTIME, "Compress: %lld conditions for an axis of %lld", (long long)flags,
                   (long long)dim);
  shape[axis] = kept;
  OP_TRY(op_output(ctx, "Compress", &out[0], rank, shape));
  for (int64_t i = 0; i < flags; i++) {
    if (op_get(&in[1], i) == 0) continue;
    for (int64_t o = 0; o < outer; o++) {
      memcpy((char*)out[0].data + (o * kept + at) * row, (const char*)in[0].data + (o * dim + i) * row, (size_t)row);
    }
    at++;
  }
  return OPTC_OK;
}

/* Order of two elements: -1, 0, 1; a NaN comes after every number and equals another NaN. */
static int compare(const optc_tensor* t, int64_t a, int64_t b) {
  if (op_is_float(t->dtype)) {
    double x = op_get(t, a), y = op_get(t, b);
    if (isnan(x) || isnan(y)) return (isnan(x) != 0) - (isnan(y) != 0);
    return (x > y) - (x < y);
  }
  int64_t x = op_get_int(t, a), y = op_get_int(t, b);
  if (t->dtype == OPTC_UINT64) return ((uint64_t)x > (uint64_t)y) - ((uint64_t)x < (uint64_t)y);
  return (x > y) - (x < y);
}

/* Sorts positions [0, n) by `before`; `spare` has room for n. Merge sort: stable. */
typedef int (*order)(const void* context, int64_t a, int64_t b);
static void sort(int64_t* items, int64_t* spare, int64_t n, order compare_items, const void* context) {
  for (int64_t width = 1; width < n; width *= 2) {
    for (int64_t low = 0; low < n; low += 2 * width) {
      int64_t middle = op_min(low + width, n), high = op_min(low + 2 * width, n), a = low, b = middle;
      for (int64_t k = low; k < high; k++) {
        int left = a < middle && (b >= high || compare_items(context, items[a], items[b]) <= 0);
        spare[k] = left ? items[a++] : items[b++];
      }
    }
    memcpy(items, spare, (size_t)n * sizeof *items);
  }
}

typedef struct slices { /* slice i along an axis: elements (o * dim + i) * inner + k */
  const optc_tensor* data;
  int64_t outer, dim, inner;
} slices;

static int compare_slices(const void* context, int64_t a, int64_t b) {
  const slices* s = context;
  for (int64_t o = 0; o < s->outer; o++) {
    for (int64_t k = 0; k < s->inner; k++) {
      int c = compare(s->data, (o * s->dim + a) * s->inner + k, (o * s->dim + b) * s->inner + k);
      if (c) return c;
    }
  }
  return 0;
}

static int compare_numbers(const void* context, int64_t a, int64_t b) {
  const int64_t* keys = context;
  return (keys[a] > keys[b]) - (keys[a] < keys[b]);
}

/* in: data; out: unique slices, first indices, inverse indices, counts (the last three int64, optional);
 * ints: has an axis, axis, sorted. */
int32_t optc_op_unique(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis = 0, rank = ints[0] ? in[0].rank : 1;
  int64_t shape[OPTC_MAX_RANK] = {op_count(&in[0])}, unique = 0, *work;
  if (ints[0]) {
    OP_TRY(op_axis(ctx, "Unique", ints[1], rank, &axis));
    memcpy(shape, in[0].shape, sizeof shape);
  }
  slices s = {&in[0], op_span(shape, 0, axis), shape[axis], op_span(shape, axis + 1, rank)};
  int64_t n = s.dim;
  OP_TRY(op_scratch(ctx, op_max(n, 1) * 6, sizeof *work, (void**)&work));
  int64_t *items = work, *spare = work + n, *first = work + 2 * n, *counts = work + 3 * n, *group = work + 4 * n,
          *place = work + 5 * n;
  for (int64_t i = 0; i < n; i++) items[i] = i;
  sort(items, spare, n, compare_slices, &s);
  for (int64_t i = 0; i < n; i++) {
    if (i == 0 || compare_slices(&s, items[i - 1], items[i])) {
      first[unique] = items[i]; /* the sort is stable, so this is the first of its kind */
      counts[unique++] = 0;
    }
    group[items[i]] = unique - 1;
    counts[unique - 1]++;
  }
  for (int64_t i = 0; i < unique; i++) items[i] = i;
  if (!ints[2]) sort(items, spare, unique, compare_numbers, first);
  for (int64_t i = 0; i < unique; i++) place[items[i]] = i;
  shape[axis] = unique;
  OP_TRY(op_output(ctx, "Unique", &out[0], rank, shape));
  int64_t row = s.inner * op_itemsize(in[0].dtype);
  for (int64_t i = 0; i < unique; i++) {
    for (int64_t o = 0; o < s.outer; o++) {
      memcpy((char*)out[0].data + (o * unique + i) * row, (const char*)in[0].data + (o * n + first[items[i]]) * row,
             (size_t)row);
    }
  }
  for (int32_t k = 1; k < num_out; k++) {
    OP_TRY(op_output(ctx, "Unique", &out[k], 1, k == 2 ? &n : &unique));
    int64_t* y = out[k].data;
    for (int64_t i = 0; i < (k == 2 ? n : unique); i++)
      y[i] = k == 1 ? first[items[i]] : k == 2 ? place[group[i]] : counts[items[i]];
  }
  optc_release(ctx, work);
  return OPTC_OK;
}

typedef struct line { /* one line of a tensor: element i at base + i * step */
  const optc_tensor* data;
  int64_t base, step;
  int descending;
} line;

static int compare_line(const void* context, int64_t a, int64_t b) {
  const line* l = context;
  int c = compare(l->data, l->base + a * l->step, l->base + b * l->step);
  return l->descending ? -c : c;
}

/* As compare_line, but the lower index wins a tie. */
static int compare_ranks(const void* context, int64_t a, int64_t b) {
  int c = compare_line(context, a, b);
  return c ? c : (a > b) - (a < b);
}

/* Restores the heap whose root is the worst of the chosen. */
static void sift(const line* l, int64_t* heap, int64_t n, int64_t i) {
  for (;;) {
    int64_t top = i;
    for (int64_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
      if (compare_ranks(l, heap[child], heap[top]) > 0) top = child;
    if (top == i) return;
    int64_t t = heap[i];
    heap[i] = heap[top], heap[top] = t, i = top;
  }
}

/* in: data, k; out: values, int64 indices; ints: axis, largest, sorted. Ties go to the lower index. */
int32_t optc_op_top_k(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t axis, rank = in[0].rank;
  int64_t k, shape[OPTC_MAX_RANK], *heap, item = op_itemsize(in[0].dtype);
  OP_TRY(op_axis(ctx, "TopK", ints[0], rank, &axis));
  OP_TRY(op_scalar(ctx, "TopK", "k", &in[1], &k));
  int64_t n = in[0].shape[axis];
  if (k < 0 || k > n)
    return op_fail(ctx, OPTC_RUNTIME, "TopK: k = %lld out of range [0, %lld]", (long long)k, (long long)n);
  memcpy(shape, in[0].shape, sizeof shape);
  shape[axis] = k;
  for (int32_t i = 0; i < num_out; i++) OP_TRY(op_output(ctx, "TopK", &out[i], rank, shape));
  OP_TRY(op_scratch(ctx, 2 * k, sizeof *heap, (void**)&heap));
  int64_t inner = op_span(in[0].shape, axis + 1, rank), lines = op_span(in[0].shape, 0, axis) * inner;
  for (int64_t i = 0; k && i < lines; i++) {
    line l = {&in[0], i / inner * n * inner + i % inner, inner, ints[1] != 0};
    for (int64_t j = 0; j < k; j++) heap[j] = j;
    for (int64_t j = k / 2 - 1; j >= 0; j--) sift(&l, heap, k, j);
    for (int64_t j = k; j < n; j++) {
      if (compare_ranks(&l, heap[0], j) <= 0) continue;
      heap[0] = j;
      sift(&l, heap, k, 0);
    }
    sort(heap, heap + k, k, compare_ranks, &l);
    for (int64_t j = 0; j < k; j++) {
      int64_t at = i / inner * k * inner + j * inner + i % inner;
      memcpy((char*)out[0].data + at * item, (const char*)in[0].data + (l.base + heap[j] * inner) * item, (size_t)item);
      if (num_out > 1) ((int64_t*)out[1].data)[at] = heap[j];
    }
  }
  optc_release(ctx, heap);
  return OPTC_OK;
}

/* Corners y1, x1, y2, x2 of a box, sorted; `centered` boxes are x, y, width, height. */
static void corners(const float* box, int64_t centered, float* c) {
  if (centered) {
    c[0] = box[1] - box[3] / 2, c[1] = box[0] - box[2] / 2, c[2] = box[1] + box[3] / 2, c[3] = box[0] + box[2] / 2;
    return;
  }
  c[0] = fminf(box[0], box[2]), c[1] = fminf(box[1], box[3]), c[2] = fmaxf(box[0], box[2]),
  c[3] = fmaxf(box[1], box[3]);
}

static int overlaps(const float* a, const float* b, int64_t centered, float threshold) {
  float p[4], q[4];
  corners(a, centered, p);
  corners(b, centered, q);
  float height = fminf(p[2], q[2]) - fmaxf(p[0], q[0]), width = fminf(p[3], q[3]) - fmaxf(p[1], q[1]);
  if (height <= 0 || width <= 0) return 0;
  float one = (p[2] - p[0]) * (p[3] - p[1]), two = (q[2] - q[0]) * (q[3] - q[1]), both = height * width;
  return one > 0 && two > 0 && both / (one + two - both) > threshold;
}

/* in: boxes [N, B, 4], scores [N, C, B], max per class, IoU threshold, score threshold (the last three optional);
 * out: int64 [count, 3]; ints: center_point_box. */
int32_t optc_op_non_max_suppression(OP_ARGUMENTS) {
  OP_UNUSED;
  if (in[0].rank != 3 || in[1].rank != 3 || in[0].shape[2] != 4 || in[0].shape[0] != in[1].shape[0] ||
      in[0].shape[1] != in[1].shape[2] || in[0].dtype != OPTC_FLOAT32 || in[1].dtype != OPTC_FLOAT32) {
    return op_fail(ctx, OPTC_RUNTIME, "NonMaxSuppression: needs float boxes [N, B, 4] and scores [N, C, B]");
  }
  int64_t batches = in[0].shape[0], boxes = in[0].shape[1], classes = in[1].shape[1], most = 0, count = 0, *work;
  if (op_has(in, num_in, 2)) OP_TRY(op_scalar(ctx, "NonMaxSuppression", "max_output_boxes_per_class", &in[2], &most));
  most = op_clamp(most, 0, boxes);
  float threshold = op_has(in, num_in, 3) ? (float)op_get(&in[3], 0) : 0,
        least = op_has(in, num_in, 4) ? (float)op_get(&in[4], 0) : -INFINITY;
  OP_TRY(op_scratch(ctx, 2 * boxes + 3 * most * batches * classes, sizeof *work, (void**)&work));
  int64_t *order = work, *chosen = work + 2 * boxes;
  for (int64_t b = 0; b < batches; b++) {
    const float* box = (const float*)in[0].data + b * boxes * 4;
    for (int64_t c = 0; c < classes; c++) {
      line scores = {&in[1], (b * classes + c) * boxes, 1, 1};
      int64_t candidates = 0, start = count;
      for (int64_t i = 0; i < boxes; i++) {
        if (((const float*)in[1].data)[scores.base + i] > least) order[candidates++] = i;
      }
      sort(order, order + boxes, candidates, compare_line, &scores);
      for (int64_t i = 0; i < candidates && count - start < most; i++) {
        int keep = 1;
        for (int64_t j = start; j < count && keep; j++)
          keep = !overlaps(box + order[i] * 4, box + chosen[3 * j + 2] * 4, ints[0], threshold);
        if (!keep) continue;
        int64_t* row = chosen + 3 * count++;
        row[0] = b, row[1] = c, row[2] = order[i];
      }
    }
  }
  int64_t shape[2] = {count, 3};
  OP_TRY(op_output(ctx, "NonMaxSuppression", &out[0], 2, shape));
  if (count) memcpy(out[0].data, chosen, (size_t)count * 3 * sizeof *chosen);
  optc_release(ctx, work);
  return OPTC_OK;
}
