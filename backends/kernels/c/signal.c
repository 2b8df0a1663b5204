/* Signal processing: DFT, STFT, window functions, MelWeightMatrix. Computed in double. */
#include "ops.h"

#define PI 3.14159265358979323846

typedef struct complex_number {
  double re, im;
} complex_number;

/* Discrete Fourier transform of n numbers x[i * step] into y. `roots[k]` = exp(-+2 pi i k / size), size = n * step.
 * Even lengths halve (Cooley-Tukey); an odd factor is summed directly. `spare` has room for n numbers. */
static void transform(const complex_number* x, int64_t step, complex_number* y, complex_number* spare, int64_t n,
                      const complex_number* roots, int64_t size) {
  if (n % 2) {
    for (int64_t k = 0; k < n; k++) {
      complex_number sum = {0, 0};
      for (int64_t j = 0; j < n; j++) {
        complex_number w = roots[j * k % n * step % size], v = x[j * step];
        sum.re += v.re * w.re - v.im * w.im;
        sum.im += v.re * w.im + v.im * w.re;
      }
      y[k] = sum;
    }
    return;
  }
  int64_t half = n / 2;
  transform(x, 2 * step, spare, y, half, roots, size);
  transform(x + step, 2 * step, spare + half, y + half, half, roots, size);
  for (int64_t k = 0; k < half; k++) {
    complex_number w = roots[k * step], a = spare[k], b = spare[half + k];
    complex_number t = {b.re * w.re - b.im * w.im, b.re * w.im + b.im * w.re};
    y[k] = (complex_number){a.re + t.re, a.im + t.im};
    y[half + k] = (complex_number){a.re - t.re, a.im - t.im};
  }
}

typedef struct fourier { /* a transform of one length: its roots and work space */
  int64_t n;
  complex_number *roots, *x, *y, *spare;
} fourier;

static int32_t fourier_new(optc_context* ctx, const char* op, int64_t n, int inverse, fourier* f) {
  if (n < 1 || n > INT32_MAX) return op_fail(ctx, OPTC_RUNTIME, "%s: length %lld out of range", op, (long long)n);
  OP_TRY(op_scratch(ctx, 4 * n, sizeof *f->roots, (void**)&f->roots));
  f->n = n, f->x = f->roots + n, f->y = f->x + n, f->spare = f->y + n;
  for (int64_t k = 0; k < n; k++) {
    double angle = (inverse ? 2 : -2) * PI * (double)k / (double)n;
    f->roots[k] = (complex_number){cos(angle), sin(angle)};
  }
  return OPTC_OK;
}

static void fourier_run(fourier* f) { transform(f->x, 1, f->y, f->spare, f->n, f->roots, f->n); }

/* in: data [.., 1 or 2], length (optional), axis (optional); ints: inverse, onesided, axis. */
int32_t optc_op_dft(OP_ARGUMENTS) {
  OP_UNUSED;
  int inverse = ints[0] != 0, onesided = ints[1] != 0;
  int32_t axis, rank = in[0].rank;
  int64_t where = ints[2], n, shape[OPTC_MAX_RANK];
  if (op_has(in, num_in, 2)) OP_TRY(op_scalar(ctx, "DFT", "axis", &in[2], &where));
  OP_TRY(op_axis(ctx, "DFT", where, rank, &axis));
  int64_t parts = in[0].shape[rank - 1], dim = in[0].shape[axis];
  if (axis == rank - 1 || parts < 1 || parts > 2)
    return op_fail(ctx, OPTC_RUNTIME, "DFT: the last dim must be 1 (real) or 2 (complex), and not the axis");
  n = inverse && onesided ? 2 * (dim - 1) : dim;
  if (op_has(in, num_in, 1)) OP_TRY(op_scalar(ctx, "DFT", "length", &in[1], &n));
  fourier f;
  OP_TRY(fourier_new(ctx, "DFT", n, inverse, &f));
  memcpy(shape, in[0].shape, sizeof shape);
  int64_t result = onesided && !inverse ? n / 2 + 1 : n, width = onesided && inverse ? 1 : 2;
  shape[axis] = result, shape[rank - 1] = width;
  OP_TRY(op_output(ctx, "DFT", &out[0], rank, shape));
  int64_t inner = op_span(in[0].shape, axis + 1, rank - 1), lines = op_span(in[0].shape, 0, axis) * inner;
  int64_t given = inverse && onesided ? op_min(dim, n / 2 + 1) : op_min(dim, n);
  for (int64_t line = 0; line < lines; line++) {
    int64_t o = line / inner, k = line % inner;
    memset(f.x, 0, (size_t)n * sizeof *f.x);
    for (int64_t j = 0; j < given; j++) {
      int64_t at = ((o * dim + j) * inner + k) * parts;
      f.x[j] = (complex_number){op_get(&in[0], at), parts == 2 ? op_get(&in[0], at + 1) : 0};
      if (inverse && onesided && j && 2 * j != n) f.x[n - j] = (complex_number){f.x[j].re, -f.x[j].im};
    }
    fourier_run(&f);
    double scale = inverse ? 1 / (double)n : 1;
    for (int64_t j = 0; j < result; j++) {
      int64_t at = ((o * result + j) * inner + k) * width;
      op_put(&out[0], at, f.y[j].re * scale);
      if (width == 2) op_put(&out[0], at + 1, f.y[j].im * scale);
    }
  }
  optc_release(ctx, f.roots);
  return OPTC_OK;
}

/* in: signal [batch, length, 1 or 2], frame step, window (optional), frame length (optional); ints: onesided. */
int32_t optc_op_stft(OP_ARGUMENTS) {
  OP_UNUSED;
  const optc_tensor* x = &in[0];
  if (x->rank < 2 || x->rank > 3) return op_fail(ctx, OPTC_RUNTIME, "STFT: signal has rank %d, not 3", x->rank);
  int64_t length = x->shape[1], parts = x->rank == 3 ? x->shape[2] : 1, step, frame = length;
  OP_TRY(op_scalar(ctx, "STFT", "frame step", &in[1], &step));
  int windowed = op_has(in, num_in, 2);
  if (windowed) frame = op_count(&in[2]);
  if (op_has(in, num_in, 3)) OP_TRY(op_scalar(ctx, "STFT", "frame length", &in[3], &frame));
  if (step < 1 || frame < 1 || frame > length || parts < 1 || parts > 2 || (windowed && op_count(&in[2]) > frame)) {
    return op_fail(ctx, OPTC_RUNTIME, "STFT: step %lld and frame %lld do not fit a signal of %lld", (long long)step,
                   (long long)frame, (long long)length);
  }
  fourier f;
  OP_TRY(fourier_new(ctx, "STFT", frame, 0, &f));
  int64_t frames = 1 + (length - frame) / step, bins = ints[0] ? frame / 2 + 1 : frame,
          taps = windowed ? op_count(&in[2]) : frame;
  int64_t shape[4] = {x->shape[0], frames, bins, 2};
  OP_TRY(op_output(ctx, "STFT", &out[0], 4, shape));
  for (int64_t i = 0; i < x->shape[0] * frames; i++) {
    int64_t start = i / frames * length + i % frames * step;
    memset(f.x, 0, (size_t)frame * sizeof *f.x);
    for (int64_t j = 0; j < taps; j++) {
      double w = windowed ? op_get(&in[2], j) : 1;
      f.x[j] =
          (complex_number){w * op_get(x, (start + j) * parts), parts == 2 ? w * op_get(x, (start + j) * parts + 1) : 0};
    }
    fourier_run(&f);
    for (int64_t k = 0; k < bins; k++) {
      op_put(&out[0], (i * bins + k) * 2, f.y[k].re);
      op_put(&out[0], (i * bins + k) * 2 + 1, f.y[k].im);
    }
  }
  optc_release(ctx, f.roots);
  return OPTC_OK;
}

/* in: size; ints: periodic; floats: a, b, c of a - b cos(2 pi i / N) + c cos(4 pi i / N). */
int32_t optc_op_window(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t size;
  OP_TRY(op_scalar(ctx, "Window", "size", &in[0], &size));
  OP_TRY(op_output(ctx, "Window", &out[0], 1, &size));
  double period = (double)(ints[0] ? size : size - 1);
  for (int64_t i = 0; i < size; i++) {
    double angle = 2 * PI * (double)i / period;
    op_put(&out[0], i, floats[0] - floats[1] * cos(angle) + floats[2] * cos(2 * angle));
  }
  return OPTC_OK;
}

/* in: number of mel bins, DFT length, sample rate, lower edge (Hz), upper edge (Hz); out: [spectrum bins, mel bins]. */
int32_t optc_op_mel_weight_matrix(OP_ARGUMENTS) {
  OP_UNUSED;
  int64_t bins, length, rate, *edges;
  OP_TRY(op_scalar(ctx, "MelWeightMatrix", "num_mel_bins", &in[0], &bins));
  OP_TRY(op_scalar(ctx, "MelWeightMatrix", "dft_length", &in[1], &length));
  OP_TRY(op_scalar(ctx, "MelWeightMatrix", "sample_rate", &in[2], &rate));
  if (bins < 1 || length < 1 || rate < 1)
    return op_fail(ctx, OPTC_RUNTIME, "MelWeightMatrix: bins, length and rate must be positive");
  int64_t shape[2] = {length / 2 + 1, bins};
  OP_TRY(op_output(ctx, "MelWeightMatrix", &out[0], 2, shape));
  op_fill(out[0].data, op_count(&out[0]), NULL, op_itemsize(out[0].dtype));
  OP_TRY(op_scratch(ctx, bins + 2, sizeof *edges, (void**)&edges));
  double low = 2595 * log1p(op_get(&in[3], 0) / 700) / log(10), high = 2595 * log1p(op_get(&in[4], 0) / 700) / log(10);
  for (int64_t i = 0; i < bins + 2; i++) {
    double mel = low + (double)i * (high - low) / (double)(bins + 2), hertz = 700 * expm1(mel / 2595 * log(10));
    edges[i] = (int64_t)floor((double)(length + 1) * hertz / (double)rate);
    if (edges[i] < 0 || edges[i] >= shape[0])
      return op_fail(ctx, OPTC_RUNTIME, "MelWeightMatrix: %g Hz lies outside the spectrum", hertz);
  }
  for (int64_t i = 0; i < bins; i++) {
    int64_t left = edges[i], centre = edges[i + 1], right = edges[i + 2];
    if (left == centre) op_put(&out[0], centre * bins + i, 1);
    for (int64_t j = left; left < centre && j <= centre; j++)
      op_put(&out[0], j * bins + i, (double)(j - left) / (double)(centre - left));
    for (int64_t j = centre; j < right; j++)
      op_put(&out[0], j * bins + i, (double)(right - j) / (double)(right - centre));
  }
  optc_release(ctx, edges);
  return OPTC_OK;
}
