/* LSTM, GRU and RNN over a projected input, with packed weights, in float (compiler/ops/recurrent.py has the layouts).
 *
 * Step by step: gates = h R^T for all gates of a block of hidden units at once, then the cell of each sequence. Rows of
 * the batch are independent of each other, and so are directions: threads share them out. */
#if defined(__GNUC__) && !defined(__clang__)
/* Vectors for the gate loops, and fused multiply-adds: -O2 -std=c11 leaves both out. */
#pragma GCC optimize("O3,fp-contract=fast")
#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512") /* the cells are long enough for it: a third less time */
#endif
#endif
#include "ops.h"
#include "recurrent_math.h"

enum { RNN, GRU, LSTM };
enum { KIND, DIRECTION, LAYOUT, LINEAR_BEFORE_RESET, RELU, HIDDEN };
#define BLOCK 16
#define LANES (VECTOR_BYTES / (int)sizeof(float))
#define PARTS (BLOCK / LANES)
/* Accumulators of a tile are TILE_ROWS * gates vectors, those of a single row CHAINS * gates * AT_ONCE. */
#if defined(__AVX512F__)
#define TILE_ROWS 6
#define AT_ONCE 1
#define CHAINS 2
#elif defined(__aarch64__)
#define TILE_ROWS 6
#define AT_ONCE PARTS
#define CHAINS 1
#else
#define TILE_ROWS 3
#define AT_ONCE 2
#define CHAINS 1
#endif
#define PARALLEL_WORK 200000 /* multiply-adds from which threads pay */

typedef float vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(float)), may_alias));

typedef struct problem {
  optc_context* ctx;
  int64_t kind, direction, batch_first, linear_before_reset, relu, T, N, H, D, gates, blocks;
  int64_t groups; /* the batch is cut into this many */
  const float *z, *r, *b, *h0, *c0; /* NULL where omitted */
  const optc_tensor* lengths; /* NULL if all sequences have T steps */
  float *y, *yh, *yc; /* NULL where nobody asks */
  float* work; /* a piece a task */
  int64_t piece;
} problem;

/* out [rows][gates], one vector each, = a [rows, k] * panel. */
static inline __attribute__((always_inline)) void tile(const float* a, int64_t lda, const float* panel, int64_t k,
                                                       int64_t step, float* out, int64_t ldo, const int rows,
                                                       const int gates) {
  vec acc[TILE_ROWS][4];
  UNROLL for (int i = 0; i < rows; i++) { UNROLL for (int g = 0; g < gates; g++) acc[i][g] = (vec){0}; }
  for (int64_t j = 0; j < k; j++, panel += step) {
    vec b[4];
    UNROLL for (int g = 0; g < gates; g++) b[g] = *(const vec*)(panel + g * BLOCK);
    UNROLL for (int i = 0; i < rows; i++) {
      UNROLL for (int g = 0; g < gates; g++) acc[i][g] += a[i * lda + j] * b[g];
    }
  }
  UNROLL for (int i = 0; i < rows; i++) {
    UNROLL for (int g = 0; g < gates; g++) *(vec*)(out + i * ldo + g * BLOCK) = acc[i][g];
  }
}

/* The same for one row, AT_ONCE vectors a gate; CHAINS sums each, since one chain of additions waits for itself. */
static inline __attribute__((always_inline)) void single(const float* a, const float* panel, int64_t k, int64_t step,
                                                         float* out, const int gates) {
  vec acc[CHAINS][4][AT_ONCE];
  UNROLL for (int i = 0; i < CHAINS; i++) {
    UNROLL for (int g = 0; g < gates; g++) { UNROLL for (int p = 0; p < AT_ONCE; p++) acc[i][g][p] = (vec){0}; }
  }
  int64_t j = 0;
  for (; j + CHAINS <= k; j += CHAINS, panel += CHAINS * step) {
    UNROLL for (int i = 0; i < CHAINS; i++) {
      UNROLL for (int g = 0; g < gates; g++) {
        UNROLL for (int p = 0; p < AT_ONCE; p++) {
          acc[i][g][p] += a[j + i] * *(const vec*)(panel + i * step + g * BLOCK + p * LANES);
        }
      }
    }
  }
  for (; j < k; j++, panel += step) {
    UNROLL for (int g = 0; g < gates; g++) {
      UNROLL for (int p = 0; p < AT_ONCE; p++) acc[0][g][p] += a[j] * *(const vec*)(panel + g * BLOCK + p * LANES);
    }
  }
  UNROLL for (int g = 0; g < gates; g++) {
    UNROLL for (int p = 0; p < AT_ONCE; p++) {
      UNROLL for (int i = 1; i < CHAINS; i++) acc[0][g][p] += acc[i][g][p];
      *(vec*)(out + g * BLOCK + p * LANES) = acc[0][g][p];
    }
  }
}

/* sums [n, blocks, all, BLOCK], gates [from, from + gates) = a [n, k] * r^T, r [blocks, k, all, BLOCK]. Every other
 * step goes backwards through r: what it begins with is then still in the cache, even if not all of r fits. */
static inline __attribute__((always_inline)) void multiply(const float* a, int64_t n, int64_t lda, const float* r,
                                                           int64_t k, int64_t blocks, int64_t all, int64_t from,
                                                           float* sums, int64_t backwards, const int gates) {
  int64_t step = all * BLOCK, ldo = blocks * step;
  for (int64_t i = 0; i < blocks; i++) {
    int64_t block = backwards ? blocks - 1 - i : i;
    const float* first = r + block * k * step + from * BLOCK;
    float* out = sums + block * step + from * BLOCK;
    if (n == 1) {
      for (int p = 0; p < PARTS; p += AT_ONCE) single(a, first + p * LANES, k, step, out + p * LANES, gates);
      continue;
    }
    for (int part = 0; part < PARTS; part++) {
      const float *x = a, *panel = first + part * LANES;
      float* o = out + part * LANES;
      for (int64_t left = n, rows; left; left -= rows, x += rows * lda, o += rows * ldo) {
        int64_t tiles = (left + TILE_ROWS - 1) / TILE_ROWS;
        rows = (left + tiles - 1) / tiles; /* tiles about equally high */
        switch (rows) {
          case 1: tile(x, lda, panel, k, step, o, ldo, 1, gates); break;
          case 2: tile(x, lda, panel, k, step, o, ldo, 2, gates); break;
          case 3: tile(x, lda, panel, k, step, o, ldo, 3, gates); break;
#if TILE_ROWS == 6
          case 4: tile(x, lda, panel, k, step, o, ldo, 4, gates); break;
          case 5: tile(x, lda, panel, k, step, o, ldo, 5, gates); break;
          default: tile(x, lda, panel, k, step, o, ldo, 6, gates);
#else
          default: break;
#endif
        }
      }
    }
  }
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* The cells: z and the recurrent sums g, [blocks, gates, BLOCK], give the new h and c, [blocks * BLOCK]. */
static void lstm_cell(const float* restrict z, const float* restrict g, float* restrict h, float* restrict c,
                      int64_t blocks) {
  for (int64_t at = 0; at < blocks; at++, z += 4 * BLOCK, g += 4 * BLOCK, h += BLOCK, c += BLOCK) {
    for (int i = 0; i < BLOCK; i++) { /* gates are i, o, f, c */
      float in = sigmoid(z[i] + g[i]), keep = sigmoid(z[2 * BLOCK + i] + g[2 * BLOCK + i]);
      float cell = keep * c[i] + in * fast_tanh(z[3 * BLOCK + i] + g[3 * BLOCK + i]);
      c[i] = cell;
      h[i] = sigmoid(z[BLOCK + i] + g[BLOCK + i]) * fast_tanh(cell);
    }
  }
}

/* Leaves the update gate in g and r * h in reset. */
static void gru_reset(const float* restrict z, float* restrict g, const float* restrict h, float* restrict reset,
                      int64_t blocks) {
  for (int64_t at = 0; at < blocks; at++, z += 3 * BLOCK, g += 3 * BLOCK, h += BLOCK, reset += BLOCK) {
    for (int i = 0; i < BLOCK; i++) {
      g[i] = sigmoid(z[i] + g[i]);
      reset[i] = sigmoid(z[BLOCK + i] + g[BLOCK + i]) * h[i];
    }
  }
}

static void gru_cell(const float* restrict z, const float* restrict g, float* restrict h, int64_t blocks) {
  for (int64_t at = 0; at < blocks; at++, z += 3 * BLOCK, g += 3 * BLOCK, h += BLOCK) {
    for (int i = 0; i < BLOCK; i++) {
      float fresh = fast_tanh(z[2 * BLOCK + i] + g[2 * BLOCK + i]);
      h[i] = fresh + g[i] * (h[i] - fresh);
    }
  }
}

/* linear_before_reset: the reset gate scales the recurrent sum and its bias. */
static void gru_linear_cell(const float* restrict z, const float* restrict g, const float* restrict bias,
                            float* restrict h, int64_t blocks) {
  for (int64_t at = 0; at < blocks; at++, z += 3 * BLOCK, g += 3 * BLOCK, h += BLOCK, bias += BLOCK) {
    for (int i = 0; i < BLOCK; i++) {
      float update = sigmoid(z[i] + g[i]), reset = sigmoid(z[BLOCK + i] + g[BLOCK + i]);
      float fresh = fast_tanh(z[2 * BLOCK + i] + reset * (g[2 * BLOCK + i] + bias[i]));
      h[i] = fresh + update * (h[i] - fresh);
    }
  }
}

static void rnn_cell(const float* restrict z, const float* restrict g, float* restrict h, int64_t n, int64_t relu) {
  if (relu)
    for (int64_t i = 0; i < n; i++) h[i] = z[i] + g[i] > 0 ? z[i] + g[i] : 0;
  else
    for (int64_t i = 0; i < n; i++) h[i] = fast_tanh(z[i] + g[i]);
}

/* What row n of direction d reads and writes at `step`: its row of Z and of Y; 0 if the sequence is over. */
static int locate(const problem* q, int64_t d, int64_t n, int64_t step, const float** z, float** y) {
  int64_t length = q->lengths ? op_get_int(q->lengths, n) : q->T, width = q->blocks * q->gates * BLOCK;
  int64_t t = (q->direction == 1 || d == 1) && step < length ? length - 1 - step : step;
  *z = q->z + ((q->batch_first ? n * q->T + t : t * q->N + n) * q->D + d) * width;
  *y = q->y ? q->y + (q->batch_first ? (n * q->T + t) * q->D + d : (t * q->D + d) * q->N + n) * q->H : NULL;
  return step < length;
}

static int64_t state_at(const problem* q, int64_t d, int64_t n) {
  return (q->batch_first ? n * q->D + d : d * q->N + n) * q->H;
}

/* All steps of one direction for one group of the batch; task = direction * groups + group. */
static int32_t recur(int32_t task, int32_t tasks, void* argument) {
  const problem* q = argument;
  (void)tasks;
  int64_t d = task / q->groups, group = task % q->groups, first = q->N * group / q->groups;
  int64_t rows = q->N * (group + 1) / q->groups - first;
  int64_t H = q->H, B = q->blocks, units = B * BLOCK, width = units * q->gates;
  const float* r = q->r + d * B * H * q->gates * BLOCK;
  size_t row_bytes = (size_t)H * sizeof(float);
  float *h = q->work + task * q->piece, *c = h + rows * units, *reset = c + rows * units, *bias = reset + rows * units;
  float *gates = bias + units, *y;
  const float* z;
  memset(h, 0, (size_t)(3 * rows + 1) * (size_t)units * sizeof(float));
  if (q->b) memcpy(bias, q->b + d * H, row_bytes);
  for (int64_t n = 0; n < rows; n++) {
    if (q->h0) memcpy(h + n * units, q->h0 + state_at(q, d, first + n), row_bytes);
    if (q->c0) memcpy(c + n * units, q->c0 + state_at(q, d, first + n), row_bytes);
  }
  for (int64_t step = 0; step < q->T; step++) {
    int64_t back = step & 1;
    if (q->kind == LSTM) multiply(h, rows, units, r, H, B, 4, 0, gates, back, 4);
    else if (q->kind == RNN) multiply(h, rows, units, r, H, B, 1, 0, gates, back, 1);
    else if (q->linear_before_reset) multiply(h, rows, units, r, H, B, 3, 0, gates, back, 3);
    else {
      multiply(h, rows, units, r, H, B, 3, 0, gates, back, 2);
      for (int64_t n = 0; n < rows; n++) {
        locate(q, d, first + n, step, &z, &y);
        gru_reset(z, gates + n * width, h + n * units, reset + n * units, B);
      }
      multiply(reset, rows, units, r, H, B, 3, 2, gates, back, 1);
    }
    for (int64_t n = 0; n < rows; n++) {
      float *own = h + n * units, *g = gates + n * width;
      if (!locate(q, d, first + n, step, &z, &y)) {
        if (y) memset(y, 0, row_bytes);
        continue;
      }
      if (q->kind == LSTM) lstm_cell(z, g, own, c + n * units, B);
      else if (q->kind == RNN) rnn_cell(z, g, own, units, q->relu);
      else if (q->linear_before_reset) gru_linear_cell(z, g, bias, own, B);
      else gru_cell(z, g, own, B);
      if (y) memcpy(y, own, row_bytes);
    }
  }
  for (int64_t n = 0; n < rows; n++) {
    int empty = q->lengths && !op_get_int(q->lengths, first + n); /* ends in zeros, as in ONNX Runtime */
    int64_t at = state_at(q, d, first + n);
    if (empty) memset(h + n * units, 0, row_bytes), memset(c + n * units, 0, row_bytes);
    if (q->yh) memcpy(q->yh + at, h + n * units, row_bytes);
    if (q->yc) memcpy(q->yc + at, c + n * units, row_bytes);
  }
  return OPTC_OK;
}

static int32_t fits(optc_context* ctx, const char* op, const char* what, const optc_tensor* t, int64_t a, int64_t b,
                    int64_t c) {
  char found[200];
  if (t->rank == 3 && t->shape[0] == a && t->shape[1] == b && t->shape[2] == c) return OPTC_OK;
  return op_fail(ctx, OPTC_RUNTIME, "%s: %s has shape %s, needed is [%lld, %lld, %lld]", op, what,
                 op_shape_text(t->shape, t->rank, found), (long long)a, (long long)b, (long long)c);
}

static int32_t check_lengths(optc_context* ctx, const char* op, const optc_tensor* lengths, int64_t N, int64_t T) {
  if (lengths->rank != 1 || lengths->shape[0] != N)
    return op_fail(ctx, OPTC_RUNTIME, "%s: sequence_lens must hold %lld numbers", op, (long long)N);
  for (int64_t i = 0; i < N; i++) {
    int64_t length = op_get_int(lengths, i);
    if (length < 0 || length > T)
      return op_fail(ctx, OPTC_RUNTIME, "%s: sequence length %lld out of range [0, %lld]", op, (long long)length,
                     (long long)T);
  }
  return OPTC_OK;
}

/* in: Z, R, B, sequence_lens, initial_h, initial_c (optional from B on); out: Y, Y_h, Y_c (each may be missing);
 * ints: see above. */
int32_t optc_op_packed_recurrent(OP_ARGUMENTS) {
  static const char* const names[] = {"RNN", "GRU", "LSTM"};
  static const int64_t gates[] = {1, 3, 4};
  (void)floats;
  const char* op = names[ints[KIND]];
  int64_t H = ints[HIDDEN], G = gates[ints[KIND]], D = ints[DIRECTION] == 2 ? 2 : 1, first = ints[LAYOUT];
  int64_t blocks = (H + BLOCK - 1) / BLOCK, T = in[0].shape[first ? 1 : 0], N = in[0].shape[first ? 0 : 1];
  int64_t all[2][4] = {{T, D, N, H}, {N, T, D, H}}, state[2][3] = {{D, N, H}, {N, D, H}};
  const int64_t* own = state[first];
  float* results[3] = {NULL};
  const float* given[6] = {NULL};
  OP_TRY(fits(ctx, op, "the projected input", &in[0], in[0].shape[0], in[0].shape[1], D * blocks * G * BLOCK));
  for (int32_t i = 0; i < 6; i++) given[i] = op_has(in, num_in, i) ? in[i].data : NULL;
  if (op_has(in, num_in, 3)) OP_TRY(check_lengths(ctx, op, &in[3], N, T));
  if (op_has(in, num_in, 4)) OP_TRY(fits(ctx, op, "initial_h", &in[4], own[0], own[1], own[2]));
  if (op_has(in, num_in, 5)) OP_TRY(fits(ctx, op, "initial_c", &in[5], own[0], own[1], own[2]));
  for (int32_t i = 0; i < num_out; i++) {
    OP_TRY(op_output(ctx, op, &out[i], i ? 3 : 4, i ? own : all[first]));
    results[i] = out[i].data;
  }
  int parallel = D * N > 1 && T * N * H * H * G * D >= PARALLEL_WORK;
  int64_t groups = parallel ? op_clamp((optc_num_threads(ctx) + D - 1) / D, 1, N) : 1;
  int64_t tallest = (N + groups - 1) / groups, units = blocks * BLOCK;
  problem q = {.ctx = ctx, .kind = ints[KIND], .direction = ints[DIRECTION], .batch_first = first,
               .linear_before_reset = ints[LINEAR_BEFORE_RESET], .relu = ints[RELU], .T = T, .N = N, .H = H, .D = D,
               .gates = G, .blocks = blocks, .groups = groups, .z = given[0], .r = given[1], .b = given[2],
               .h0 = given[4], .c0 = given[5], .lengths = given[3] ? &in[3] : NULL, .y = results[0],
               .yh = results[1], .yc = results[2], .piece = units * (tallest * (3 + G) + 1)};
  OP_TRY(op_scratch(ctx, q.piece * groups * D, sizeof(float), (void**)&q.work));
  int32_t status = OPTC_OK;
  if (parallel) status = optc_parallel(ctx, recur, &q, (int32_t)(groups * D));
  else
    for (int32_t task = 0; task < D; task++) recur(task, (int32_t)D, &q);
  optc_release(ctx, q.work);
  return status;
}
