/* Resize with scales or sizes known while running: nearest, linear and cubic, one axis after the other. */
#include "ops.h"

enum { NEAREST, LINEAR, CUBIC };
enum { HALF_PIXEL, HALF_PIXEL_SYMMETRIC, PYTORCH_HALF_PIXEL, ALIGN_CORNERS, ASYMMETRIC, TF_CROP };
enum { PREFER_FLOOR, PREFER_CEIL, FLOOR, CEIL };
enum { STRETCH, NOT_LARGER, NOT_SMALLER };

typedef struct resize_options {
  int64_t mode, coordinates, rounding, antialias, exclude_outside, policy;
  double cubic, extrapolation;
} resize_options;

typedef struct resize_axis { /* one axis: sizes, scale = out / in as the user gave it, region of interest */
  int64_t in, out;
  double scale, from, to;
} resize_axis;

/* The input coordinate of output x (ONNX Resize, coordinate_transformation_mode). */
static double source(const resize_options* o, const resize_axis* a, int64_t x) {
  double width = a->scale * (double)a->in;
  switch (o->coordinates) {
    case ALIGN_CORNERS: return width == 1 ? 0 : (double)x * (double)(a->in - 1) / (width - 1);
    case ASYMMETRIC: return (double)x / a->scale;
    case TF_CROP:
      if (width == 1) return (a->to - a->from) * (double)(a->in - 1) / 2 + a->from * (double)(a->in - 1);
      return (double)x * (a->to - a->from) * (double)(a->in - 1) / (width - 1) + a->from * (double)(a->in - 1);
    case PYTORCH_HALF_PIXEL: return width == 1 ? -0.5 : ((double)x + 0.5) / a->scale - 0.5;
    case HALF_PIXEL_SYMMETRIC:
      return (double)a->in / 2 * (1 - (double)a->out / width) + ((double)x + 0.5) / a->scale - 0.5;
    default: return ((double)x + 0.5) / a->scale - 0.5;
  }
}

static int is_outside(const resize_options* o, const resize_axis* a, double x) {
  return o->coordinates == TF_CROP && (x < 0 || x > (double)(a->in - 1));
}

static int64_t nearest(const resize_options* o, const resize_axis* a, double x) {
  double low = floor(x), ratio = x - low;
  int up = ratio != 0 && (o->rounding == CEIL || (o->rounding == PREFER_FLOOR && ratio > 0.5) ||
                          (o->rounding == PREFER_CEIL && ratio >= 0.5));
  return op_clamp((int64_t)low + up, 0, a->in - 1);
}

static double cubic(double x, double a) { /* Keys' kernel */
  x = fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

/* Pixels left of and including floor(x) that the kernel touches, minus one; as many lie on the right. */
static int64_t reach(const resize_options* o, const resize_axis* a) {
  double stretch = o->antialias && a->scale < 1 ? a->scale : 1;
  return -(int64_t)(floor((o->mode == CUBIC ? -2 : -1) / stretch) + 1);
}

/* Weights of the 2 * reach + 2 pixels around x, the first of which is returned. */
static int64_t weigh(const resize_options* o, const resize_axis* a, double x, int64_t span, double* weights) {
  double stretch = o->antialias && a->scale < 1 ? a->scale : 1, low = floor(x), sum = 0;
  if (low == x) low -= 1; /* the ratio lies in (0, 1] */
  for (int64_t i = 0; i < 2 * span + 2; i++) {
    double distance = ((double)(i - span) - (x - low)) * stretch;
    int64_t at = (int64_t)low + i - span;
    weights[i] = o->mode == CUBIC ? cubic(distance, o->cubic) : fmax(1 - fabs(distance), 0);
    if (o->exclude_outside && (at < 0 || at >= a->in)) weights[i] = 0;
    sum += weights[i];
  }
  if ((o->antialias || o->exclude_outside) && sum != 0)
    for (int64_t i = 0; i < 2 * span + 2; i++) weights[i] /= sum;
  return (int64_t)low - span;
}

/* Interpolates axis `a` of src [outer, in, inner] into dst [outer, out, inner]. */
static int32_t along(optc_context* ctx, const resize_options* o, const resize_axis* a, int64_t outer, int64_t inner,
                     const double* src, double* dst) {
  int64_t span = reach(o, a);
  double* weights;
  OP_TRY(op_scratch(ctx, 2 * span + 2, sizeof *weights, (void**)&weights));
  for (int64_t x = 0; x < a->out; x++) {
    double at = source(o, a, x);
    int outside = is_outside(o, a, at);
    int64_t first = weigh(o, a, at, span, weights);
    for (int64_t n = 0; n < outer; n++) {
      double* to = dst + (n * a->out + x) * inner;
      for (int64_t k = 0; k < inner; k++) to[k] = outside ? o->extrapolation : 0;
      for (int64_t i = 0; i < 2 * span + 2 && !outside; i++) {
        const double* from = src + (n * a->in + op_clamp(first + i, 0, a->in - 1)) * inner;
        double w = weights[i];
        if (w != 0)
          for (int64_t k = 0; k < inner; k++) to[k] += w * from[k];
      }
    }
  }
  optc_release(ctx, weights);
  return OPTC_OK;
}

static int32_t resize_nearest(optc_context* ctx, const resize_options* o, const resize_axis* axes, const optc_tensor* x,
                              optc_tensor* y) {
  int64_t *maps, *map[OPTC_MAX_RANK], index[OPTC_MAX_RANK] = {0}, strides[OPTC_MAX_RANK], entries = 0,
                                      item = op_itemsize(x->dtype);
  for (int32_t i = 0; i < x->rank; i++) entries += y->shape[i];
  OP_TRY(op_scratch(ctx, entries, sizeof *maps, (void**)&maps));
  op_strides(x->shape, x->rank, item, strides);
  int64_t* next = maps;
  for (int32_t i = 0; i < x->rank; next += y->shape[i++]) { /* byte offsets of the sources, -1 outside */
    map[i] = next;
    for (int64_t j = 0; j < y->shape[i]; j++) {
      double at = source(o, &axes[i], j);
      map[i][j] = axes[i].scale == 1 && axes[i].in == axes[i].out && o->coordinates != TF_CROP ? j * strides[i]
                  : is_outside(o, &axes[i], at) ? -1
                                                : nearest(o, &axes[i], at) * strides[i];
    }
  }
  int64_t at = 0;
  do {
    int64_t offset = 0, inside = 1;
    for (int32_t i = 0; i < x->rank; i++) inside &= map[i][index[i]] >= 0, offset += map[i][index[i]];
    if (inside) memcpy((char*)y->data + at * item, (const char*)x->data + offset, (size_t)item);
    else op_put(y, at, o->extrapolation);
    at++;
  } while (op_next(index, y->shape, x->rank));
  optc_release(ctx, maps);
  return OPTC_OK;
}

static int32_t resize_smooth(optc_context* ctx, const resize_options* o, const resize_axis* axes, const optc_tensor* x,
                             optc_tensor* y) {
  int64_t shape[OPTC_MAX_RANK], count = op_count(x), size = count;
  double *now, *after;
  memcpy(shape, x->shape, sizeof shape);
  for (int32_t i = 0; i < x->rank; i++) {
    shape[i] = axes[i].out;
    size = op_max(size, op_span(shape, 0, x->rank));
  }
  memcpy(shape, x->shape, sizeof shape);
  OP_TRY(op_scratch(ctx, size, sizeof *now, (void**)&now));
  OP_TRY(op_scratch(ctx, size, sizeof *now, (void**)&after));
  for (int64_t i = 0; i < count; i++) now[i] = op_get(x, i);
  for (int32_t i = 0; i < x->rank; i++) {
    const resize_axis* a = &axes[i];
    if (a->in == a->out && a->scale == 1 && a->from == 0 && a->to == 1) continue;
    OP_TRY(along(ctx, o, a, op_span(shape, 0, i), op_span(shape, i + 1, x->rank), now, after));
    shape[i] = a->out;
    double* t = now;
    now = after, after = t;
  }
  double low = y->dtype == OPTC_INT8    ? -128
               : y->dtype == OPTC_UINT8 ? 0
               : y->dtype == OPTC_INT32 ? INT32_MIN
                                        : -INFINITY;
  double high = y->dtype == OPTC_INT8    ? 127
                : y->dtype == OPTC_UINT8 ? 255
                : y->dtype == OPTC_INT32 ? INT32_MAX
                                         : INFINITY;
  int whole = !op_is_float(y->dtype);
  for (int64_t i = 0; i < op_count(y); i++) op_put(y, i, whole ? fmin(fmax(rint(now[i]), low), high) : now[i]);
  optc_release(ctx, now);
  optc_release(ctx, after);
  return OPTC_OK;
}

/* in: data, roi, scales, sizes (optional; one of the last two is there and not empty);
 * ints: mode, coordinates, rounding, antialias, exclude_outside, policy, number of axes (0: all), the axes;
 * floats: cubic_coeff_a, extrapolation_value. */
int32_t optc_op_resize(OP_ARGUMENTS) {
  OP_UNUSED;
  resize_options o = {ints[0], ints[1], ints[2], ints[3], ints[4], ints[5], floats[0], floats[1]};
  resize_axis axes[OPTC_MAX_RANK];
  int32_t rank = in[0].rank, count = ints[6] ? (int32_t)ints[6] : rank, which[OPTC_MAX_RANK];
  int64_t shape[OPTC_MAX_RANK];
  int by_scale = op_has(in, num_in, 2) && op_count(&in[2]),
      by_size = !by_scale && op_has(in, num_in, 3) && op_count(&in[3]);
  const optc_tensor* given = by_scale ? &in[2] : &in[3];
  if ((!by_scale && !by_size) || op_count(given) != count)
    return op_fail(ctx, OPTC_RUNTIME, "Resize: one scale or size for each of %d axes is needed", count);
  int has_roi = o.coordinates == TF_CROP && op_has(in, num_in, 1) && op_count(&in[1]) == 2 * count;
  for (int32_t i = 0; i < rank; i++) axes[i] = (resize_axis){in[0].shape[i], in[0].shape[i], 1, 0, 1};
  double least = INFINITY, most = 0;
  for (int32_t i = 0; i < count; i++) {
    which[i] = i;
    if (ints[6]) OP_TRY(op_axis(ctx, "Resize", ints[7 + i], rank, &which[i]));
    resize_axis* a = &axes[which[i]];
    double value = op_get(given, i), scale = by_scale ? value : value / (double)a->in;
    if (!(value >= 0) || value > 0x1p40) return op_fail(ctx, OPTC_RUNTIME, "Resize: bad scale or size %g", value);
    a->scale = scale;
    a->out = by_scale ? (int64_t)(scale * (double)a->in) : (int64_t)value;
    if (has_roi) a->from = op_get(&in[1], i), a->to = op_get(&in[1], count + i);
    least = fmin(least, scale), most = fmax(most, scale);
  }
  if (by_size && o.policy != STRETCH) {
    for (int32_t i = 0; i < count; i++) {
      resize_axis* a = &axes[which[i]];
      a->scale = o.policy == NOT_LARGER ? least : most;
      a->out = (int64_t)(a->scale * (double)a->in + 0.5);
    }
  }
  for (int32_t i = 0; i < rank; i++) shape[i] = axes[i].out;
  OP_TRY(op_output(ctx, "Resize", &out[0], rank, shape));
  if (op_count(&out[0]) == 0) return OPTC_OK;
  if (op_count(&in[0]) == 0) return op_fail(ctx, OPTC_RUNTIME, "Resize: the input is empty");
  return (o.mode == NEAREST ? resize_nearest : resize_smooth)(ctx, &o, axes, &in[0], &out[0]);
}
