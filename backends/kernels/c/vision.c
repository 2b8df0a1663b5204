/* Vision: RoiAlign, MaxRoiPool, MaxUnpool, Col2Im, AffineGrid; and Det. */
#include "ops.h"

typedef struct sample {
  int64_t at[4];
  double weight[4];
} sample; /* four pixels of a plane and their weights */

static sample bilinear(double y, double x, int64_t height, int64_t width) {
  sample s = {{0}, {0}};
  if (y < -1 || y > (double)height || x < -1 || x > (double)width) return s;
  y = fmin(fmax(y, 0), (double)(height - 1)), x = fmin(fmax(x, 0), (double)(width - 1));
  int64_t top = (int64_t)y, left = (int64_t)x, bottom = op_min(top + 1, height - 1),
          right = op_min(left + 1, width - 1);
  double v = y - (double)top, h = x - (double)left;
  int64_t at[4] = {top * width + left, top * width + right, bottom * width + left, bottom * width + right};
  double weight[4] = {(1 - v) * (1 - h), (1 - v) * h, v * (1 - h), v * h};
  memcpy(s.at, at, sizeof at);
  memcpy(s.weight, weight, sizeof weight);
  return s;
}

static int32_t batch_of(optc_context* ctx, const char* op, int64_t batch, int64_t count) {
  if (batch >= 0 && batch < count) return OPTC_OK;
  return op_fail(ctx, OPTC_RUNTIME, "%s: batch index %lld out of range [0, %lld)", op, (long long)batch,
                 (long long)count);
}

/* in: data [N, C, H, W], rois [R, 4], batch indices [R]; ints: half_pixel, max, height, width, sampling ratio;
 * floats: spatial scale. */
int32_t optc_op_roi_align(OP_ARGUMENTS) {
  OP_UNUSED;
  const optc_tensor* x = &in[0];
  int64_t rois = op_count(&in[2]), rows = ints[2], cols = ints[3];
  if (x->rank != 4 || in[1].rank != 2 || in[1].shape[0] != rois || in[1].shape[1] != 4)
    return op_fail(ctx, OPTC_RUNTIME, "RoiAlign: needs data [N, C, H, W] and rois [R, 4]");
  int64_t channels = x->shape[1], height = x->shape[2], width = x->shape[3], shape[4] = {rois, channels, rows, cols};
  OP_TRY(op_output(ctx, "RoiAlign", &out[0], 4, shape));
  for (int64_t r = 0; r < rois; r++) {
    int64_t batch = op_get_int(&in[2], r);
    OP_TRY(batch_of(ctx, "RoiAlign", batch, x->shape[0]));
    double shift = ints[0] ? 0.5 : 0, edge[4];
    for (int k = 0; k < 4; k++) edge[k] = op_get(&in[1], r * 4 + k) * floats[0] - shift;
    double w = edge[2] - edge[0], h = edge[3] - edge[1];
    if (!ints[0]) w = fmax(w, 1), h = fmax(h, 1); /* malformed regions become one pixel */
    double bin_h = h / (double)rows, bin_w = w / (double)cols;
    if (!(bin_h < 0x1p20) || !(bin_w < 0x1p20))
      return op_fail(ctx, OPTC_RUNTIME, "RoiAlign: region %lld is too large", (long long)r);
    int64_t grid_h = ints[4] > 0 ? ints[4] : (int64_t)ceil(bin_h),
            grid_w = ints[4] > 0 ? ints[4] : (int64_t)ceil(bin_w);
    for (int64_t cell = 0; cell < rows * cols; cell++) {
      for (int64_t c = 0; c < channels; c++) {
        int64_t plane = (batch * channels + c) * height * width;
        double sum = 0, top = -INFINITY;
        for (int64_t g = 0; g < grid_h * grid_w; g++) {
          double y = edge[1] + (double)(cell / cols) * bin_h + ((double)(g / grid_w) + 0.5) * bin_h / (double)grid_h;
          double z = edge[0] + (double)(cell % cols) * bin_w + ((double)(g % grid_w) + 0.5) * bin_w / (double)grid_w;
          sample s = bilinear(y, z, height, width);
          for (int k = 0; k < 4; k++) {
            double v = s.weight[k] * op_get(x, plane + s.at[k]);
            sum += v, top = fmax(top, v);
          }
        }
        double mean = sum / (double)op_max(grid_h * grid_w, 1);
        op_put(&out[0], (r * channels + c) * rows * cols + cell, !ints[1] ? mean : grid_h * grid_w > 0 ? top : 0);
      }
    }
  }
  return OPTC_OK;
}

/* in: data [N, C, H, W], rois [R, 5] (batch, x1, y1, x2, y2); ints: pooled height, width; floats: spatial scale. */
int32_t optc_op_max_roi_pool(OP_ARGUMENTS) {
  OP_UNUSED;
  const optc_tensor* x = &in[0];
  if (x->rank != 4 || in[1].rank != 2 || in[1].shape[1] != 5)
    return op_fail(ctx, OPTC_RUNTIME, "MaxRoiPool: needs data [N, C, H, W] and rois [R, 5]");
  int64_t height = x->shape[2], width = x->shape[3], channels = x->shape[1],
          shape[4] = {in[1].shape[0], channels, ints[0], ints[1]};
  OP_TRY(op_output(ctx, "MaxRoiPool", &out[0], 4, shape));
  int64_t total = op_count(&out[0]);
  for (int64_t i = 0; i < total; i++) {
    int64_t r = i / (channels * ints[0] * ints[1]), c = i / (ints[0] * ints[1]) % channels,
            batch = op_get_int(&in[1], r * 5);
    OP_TRY(batch_of(ctx, "MaxRoiPool", batch, x->shape[0]));
    int64_t cell[2] = {i / ints[1] % ints[0], i % ints[1]}, low[2], high[2], dim[2] = {height, width};
    for (int k = 0; k < 2; k++) { /* rows from y1, y2 (entries 2 and 4), columns from x1, x2 (1 and 3) */
      double from = round(op_get(&in[1], r * 5 + 2 - k) * floats[0]),
             to = round(op_get(&in[1], r * 5 + 4 - k) * floats[0]);
      double bin = fmax(to - from + 1, 1) / (double)ints[k];
      low[k] = op_clamp((int64_t)(floor((double)cell[k] * bin) + from), 0, dim[k]);
      high[k] = op_clamp((int64_t)(ceil((double)(cell[k] + 1) * bin) + from), 0, dim[k]);
    }
    double top = low[0] < high[0] && low[1] < high[1] ? -INFINITY : 0;
    for (int64_t y = low[0]; y < high[0]; y++) {
      for (int64_t z = low[1]; z < high[1]; z++)
        top = fmax(top, op_get(x, ((batch * channels + c) * height + y) * width + z));
    }
    op_put(&out[0], i, top);
  }
  return OPTC_OK;
}

/* in: pooled data, indices, output shape (optional); ints: spatial dims n, then kernel, strides, begin pads, end pads.
 */
int32_t optc_op_max_unpool(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t rank = in[0].rank, given;
  int64_t n = ints[0], inferred[OPTC_MAX_RANK], shape[OPTC_MAX_RANK], strides[OPTC_MAX_RANK],
          item = op_itemsize(in[0].dtype);
  const int64_t *kernel = ints + 1, *step = kernel + n, *begin = step + n, *end = begin + n;
  if (rank != n + 2 || op_count(&in[1]) != op_count(&in[0]))
    return op_fail(ctx, OPTC_RUNTIME, "MaxUnpool: data and indices must have one shape of rank %lld", (long long)n + 2);
  memcpy(inferred, in[0].shape, sizeof inferred);
  for (int64_t i = 0; i < n; i++) inferred[i + 2] = (in[0].shape[i + 2] - 1) * step[i] - begin[i] - end[i] + kernel[i];
  memcpy(shape, inferred, sizeof shape);
  if (op_has(in, num_in, 2)) {
    OP_TRY(op_list(ctx, "MaxUnpool", &in[2], OPTC_MAX_RANK, shape, &given));
    if (given != rank) return op_fail(ctx, OPTC_RUNTIME, "MaxUnpool: output shape has %d dims, not %d", given, rank);
  }
  OP_TRY(op_output(ctx, "MaxUnpool", &out[0], rank, shape));
  op_fill(out[0].data, op_count(&out[0]), NULL, item);
  op_strides(shape, rank, 1, strides);
  int64_t space = op_span(inferred, 0, rank), count = op_count(&in[0]);
  for (int64_t i = 0; i < count; i++) { /* the index counts in the inferred shape */
    int64_t index = op_get_int(&in[1], i), at = 0;
    if (index < 0 || index >= space)
      return op_fail(ctx, OPTC_RUNTIME, "MaxUnpool: index %lld out of range [0, %lld)", (long long)index,
                     (long long)space);
    for (int32_t d = rank - 1; d >= 0; d--) {
      int64_t coordinate = index % inferred[d];
      if (coordinate >= shape[d])
        return op_fail(ctx, OPTC_RUNTIME, "MaxUnpool: an index lies outside the output shape");
      at += coordinate * strides[d], index /= inferred[d];
    }
    memcpy((char*)out[0].data + at * item, (const char*)in[0].data + i * item, (size_t)item);
  }
  return OPTC_OK;
}

/* in: columns [N, C * block, L], image shape, block shape; ints: spatial dims n, then dilations, strides, begin pads,
 * end pads. */
int32_t optc_op_col2im(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t n = ints[0], image[OPTC_MAX_RANK], block[OPTC_MAX_RANK], shape[OPTC_MAX_RANK + 2], places[OPTC_MAX_RANK],
          taps = 1, length = 1;
  const int64_t *dilation = ints + 1, *step = dilation + n, *begin = step + n, *end = begin + n;
  int32_t dims, same;
  OP_TRY(op_list(ctx, "Col2Im", &in[1], OPTC_MAX_RANK - 2, image, &dims));
  OP_TRY(op_list(ctx, "Col2Im", &in[2], OPTC_MAX_RANK - 2, block, &same));
  if (dims != n || same != n || in[0].rank != 3)
    return op_fail(ctx, OPTC_RUNTIME, "Col2Im: needs data of rank 3 and %lld dims", (long long)n);
  for (int64_t i = 0; i < n; i++) {
    places[i] = (image[i] + begin[i] + end[i] - dilation[i] * (block[i] - 1) - 1) / step[i] + 1;
    if (block[i] < 1 || image[i] < 0 || places[i] < 0)
      return op_fail(ctx, OPTC_RUNTIME, "Col2Im: bad image or block shape");
    taps *= block[i], length *= places[i], shape[i + 2] = image[i];
  }
  if (in[0].shape[1] % taps || in[0].shape[2] != length) {
    return op_fail(ctx, OPTC_RUNTIME, "Col2Im: %lld x %lld columns, expected a multiple of %lld x %lld",
                   (long long)in[0].shape[1], (long long)in[0].shape[2], (long long)taps, (long long)length);
  }
  shape[0] = in[0].shape[0], shape[1] = in[0].shape[1] / taps;
  OP_TRY(op_output(ctx, "Col2Im", &out[0], (int32_t)n + 2, shape));
  op_fill(out[0].data, op_count(&out[0]), NULL, op_itemsize(out[0].dtype));
  int64_t plane = op_span(image, 0, (int32_t)n), count = op_count(&in[0]);
  for (int64_t i = 0; i < count; i++) {
    int64_t place = i % length, tap = i / length % taps, at = 0, scale = 1, inside = 1;
    for (int64_t d = n - 1; d >= 0; d--) {
      int64_t x = place % places[d] * step[d] - begin[d] + tap % block[d] * dilation[d];
      inside &= x >= 0 && x < image[d];
      at += x * scale, scale *= image[d], place /= places[d], tap /= block[d];
    }
    at += i / (length * taps) * plane;
    if (inside) op_put(&out[0], at, op_get(&out[0], at) + op_get(&in[0], i));
  }
  return OPTC_OK;
}

/* in: theta [N, d, d + 1], size (N, C, spatial dims); ints: align_corners. out: [N, spatial dims, d]. */
int32_t optc_op_affine_grid(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t size[OPTC_MAX_RANK], shape[OPTC_MAX_RANK], index[3] = {0};
  int32_t rank;
  OP_TRY(op_list(ctx, "AffineGrid", &in[1], 5, size, &rank));
  int32_t d = rank - 2;
  if (d < 2 || in[0].rank != 3 || in[0].shape[0] != size[0] || in[0].shape[1] != d || in[0].shape[2] != d + 1)
    return op_fail(ctx, OPTC_RUNTIME, "AffineGrid: theta does not fit a size of %d dims", rank);
  shape[0] = size[0], shape[d + 1] = d;
  memcpy(shape + 1, size + 2, (size_t)d * sizeof *shape);
  OP_TRY(op_output(ctx, "AffineGrid", &out[0], d + 2, shape));
  int64_t points = op_span(shape, 0, d + 1);
  for (int64_t p = 0; p < points; p++, op_next(index, shape + 1, d)) {
    int64_t batch = p / op_span(shape, 1, d + 1);
    double point[4];
    for (int32_t k = 0; k < d; k++) { /* coordinates in [-1, 1], x (the last dim) first */
      double n = (double)size[rank - 1 - k], i = (double)index[d - 1 - k];
      point[k] = ints[0] ? (n == 1 ? 0 : -1 + 2 * i / (n - 1)) : -1 + (2 * i + 1) / n;
    }
    point[d] = 1;
    for (int32_t r = 0; r < d; r++) {
      double sum = 0;
      for (int32_t k = 0; k <= d; k++) sum += op_get(&in[0], (batch * d + r) * (d + 1) + k) * point[k];
      op_put(&out[0], p * d + r, sum);
    }
  }
  return OPTC_OK;
}

/* in: square matrices [.., n, n]; out: their determinants. LU with partial pivoting. */
int32_t optc_op_det(OP_ARGUMENTS) {
  OP_UNUSED;
  int32_t rank = in[0].rank;
  if (rank < 2 || in[0].shape[rank - 1] != in[0].shape[rank - 2])
    return op_fail(ctx, OPTC_RUNTIME, "Det: the matrices must be square");
  OP_TRY(op_output(ctx, "Det", &out[0], rank - 2, in[0].shape));
  int64_t n = in[0].shape[rank - 1], count = op_count(&out[0]);
  double* a;
  OP_TRY(op_scratch(ctx, n * n, sizeof *a, (void**)&a));
  for (int64_t m = 0; m < count; m++) {
    double det = 1;
    for (int64_t i = 0; i < n * n; i++) a[i] = op_get(&in[0], m * n * n + i);
    for (int64_t c = 0; c < n; c++) {
      int64_t pivot = c;
      for (int64_t r = c + 1; r < n; r++)
        if (fabs(a[r * n + c]) > fabs(a[pivot * n + c])) pivot = r;
      if (pivot != c) {
        det = -det;
        for (int64_t k = 0; k < n; k++) {
          double t = a[c * n + k];
          a[c * n + k] = a[pivot * n + k], a[pivot * n + k] = t;
        }
      }
      det *= a[c * n + c];
      if (a[c * n + c] == 0) break;
      for (int64_t r = c + 1; r < n; r++) {
        double factor = a[r * n + c] / a[c * n + c];
        for (int64_t k = c; k < n; k++) a[r * n + k] -= factor * a[c * n + k];
      }
    }
    op_put(&out[0], m, det);
  }
  optc_release(ctx, a);
  return OPTC_OK;
}
