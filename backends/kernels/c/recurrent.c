/* LSTM, GRU and RNN in every form of ONNX. The work is in recurrent_core.h, compiled for float and double here; half
 * and bfloat16 tensors are widened to float. */
#if defined(__GNUC__) && !defined(__clang__)
/* Vectors for the gate loops, and fused multiply-adds: -O2 -std=c11 leaves both out. */
#pragma GCC optimize("O3,fp-contract=fast")
#endif
#include "ops.h"
#include "recurrent_math.h"

enum { RNN, GRU, LSTM };
/* Places of the options in `ints`; activations are three a direction, absent ones 0. */
enum { KIND, DIRECTION, LAYOUT, LINEAR_BEFORE_RESET, INPUT_FORGET, CLIPPED, ACTIVATIONS };
enum { TANH, SIGMOID, RELU, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS };

#define PARALLEL_WORK 500000 /* multiply-adds from which threads pay */

static int64_t gates_of(int64_t kind) { return kind == LSTM ? 4 : kind == GRU ? 3 : 1; }

/* --- activations ------------------------------------------------------------------------------------------------- */

static double other_activation(int64_t which, double alpha, double beta, double x) {
  switch (which) {
    case RELU: return x > 0 ? x : 0;
    case AFFINE: return alpha * x + beta;
    case LEAKY_RELU: return x < 0 ? alpha * x : x;
    case THRESHOLDED_RELU: return x > alpha ? x : 0;
    case SCALED_TANH: return alpha * tanh(beta * x);
    case HARD_SIGMOID: return fmin(fmax(alpha * x + beta, 0), 1);
    case ELU: return x < 0 ? alpha * expm1(x) : x;
    case SOFTSIGN: return x / (1 + fabs(x));
    case SOFTPLUS: return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    case SIGMOID: return 1 / (1 + exp(-x));
    default: return tanh(x);
  }
}

static void apply_f32(int64_t which, float alpha, float beta, float* x, int64_t n) {
  if (which == SIGMOID)
    for (int64_t i = 0; i < n; i++) x[i] = 1.0f / (1.0f + fast_exp(-x[i]));
  else if (which == TANH)
    for (int64_t i = 0; i < n; i++) x[i] = fast_tanh(x[i]);
  else
    for (int64_t i = 0; i < n; i++) x[i] = (float)other_activation(which, alpha, beta, x[i]);
}

static void apply_f64(int64_t which, double alpha, double beta, double* x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = other_activation(which, alpha, beta, x[i]);
}

#define REAL float
#define NAME(name) name##_f32
#include "recurrent_core.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_f64
#include "recurrent_core.h"

/* --- the op ------------------------------------------------------------------------------------------------------ */

static int has_shape(const optc_tensor* t, int32_t rank, int64_t a, int64_t b, int64_t c) {
  int64_t want[3] = {a, b, c};
  return t->rank == rank && !memcmp(t->shape, want, (size_t)rank * sizeof *want);
}

static int32_t check(optc_context* ctx, const char* op, const optc_tensor* in, const int64_t* ints) {
  int64_t first = ints[LAYOUT], D = ints[DIRECTION] == 2 ? 2 : 1, G = gates_of(ints[KIND]),
          H = in[2].rank == 3 ? in[2].shape[2] : -1;
  if (in[0].rank != 3 || in[1].rank != 3 || H < 0)
    return op_fail(ctx, OPTC_RUNTIME, "%s: X, W and R must have rank 3", op);
  int64_t T = in[0].shape[first ? 1 : 0], N = in[0].shape[first ? 0 : 1], I = in[0].shape[2];
  int64_t a = first ? N : D, b = first ? D : N; /* leading dims of the states */
  const char* bad = !has_shape(&in[1], 3, D, G * H, I) ? "W" : !has_shape(&in[2], 3, D, G * H, H) ? "R" : NULL;
  if (in[3].data && !has_shape(&in[3], 2, D, 2 * G * H, 0)) bad = "B";
  if (in[4].data && !has_shape(&in[4], 1, N, 0, 0)) bad = "sequence_lens";
  if (in[5].data && !has_shape(&in[5], 3, a, b, H)) bad = "initial_h";
  if (in[6].data && !has_shape(&in[6], 3, a, b, H)) bad = "initial_c";
  if (in[7].data && !has_shape(&in[7], 2, D, 3 * H, 0)) bad = "P";
  if (bad)
    return op_fail(ctx, OPTC_RUNTIME, "%s: %s does not fit hidden size %lld, input size %lld and batch %lld", op, bad,
                   (long long)H, (long long)I, (long long)N);
  for (int64_t i = 0; in[4].data && i < N; i++) {
    int64_t length = op_get_int(&in[4], i);
    if (length < 0 || length > T)
      return op_fail(ctx, OPTC_RUNTIME, "%s: sequence length %lld out of range [0, %lld]", op, (long long)length,
                     (long long)T);
  }
  return OPTC_OK;
}

/* in: X, W, R, B, sequence_lens, initial_h, initial_c, P (optional from B on); out: Y, Y_h, Y_c (each may be missing);
 * ints: see above; floats: clip, then alpha and beta of every activation. */
int32_t optc_op_recurrent(OP_ARGUMENTS) {
  static const char* const names[] = {"RNN", "GRU", "LSTM"};
  const char* op = names[ints[KIND]];
  optc_tensor x[8];
  void *results[3] = {NULL}, *spare[11] = {NULL};
  int half = in[0].dtype == OPTC_FLOAT16 || in[0].dtype == OPTC_BFLOAT16, spares = 0;
  for (int32_t i = 0; i < 8; i++) {
    x[i] = op_has(in, num_in, i) ? in[i] : (optc_tensor){.rank = -1};
    if (!op_has(in, num_in, i)) x[i].data = NULL;
  }
  OP_TRY(check(ctx, op, x, ints));
  for (int32_t i = 0; half && i < 8; i++) {
    if (!x[i].data || i == 4) continue;
    int64_t count = op_count(&x[i]);
    float* wide;
    OP_TRY(op_scratch(ctx, count, sizeof *wide, &spare[spares]));
    wide = spare[spares++];
    for (int64_t k = 0; k < count; k++) wide[k] = (float)op_get(&in[i], k);
    x[i].data = wide;
  }
  int64_t first = ints[LAYOUT], D = x[1].shape[0], H = x[2].shape[2], T = x[0].shape[first ? 1 : 0],
          N = x[0].shape[first ? 0 : 1];
  int64_t all[2][4] = {{T, D, N, H}, {N, T, D, H}}, state[2][3] = {{D, N, H}, {N, D, H}};
  for (int32_t i = 0; i < num_out; i++) {
    OP_TRY(op_output(ctx, op, &out[i], i ? 3 : 4, i ? state[first] : all[first]));
    results[i] = out[i].data;
    if (!half) continue;
    OP_TRY(op_scratch(ctx, op_count(&out[i]), sizeof(float), &results[i]));
    spare[spares++] = results[i];
  }
  const optc_tensor* lengths = x[4].data ? &x[4] : NULL;
  OP_TRY((in[0].dtype == OPTC_FLOAT64 ? solve_f64 : solve_f32)(ctx, x, lengths, results, ints, floats));
  for (int32_t i = 0; half && i < num_out; i++) {
    for (int64_t k = 0; k < op_count(&out[i]); k++) op_put(&out[i], k, ((float*)results[i])[k]);
  }
  for (int i = 0; i < spares; i++) optc_release(ctx, spare[i]);
  return OPTC_OK;
}
