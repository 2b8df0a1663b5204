/* LSTM, GRU and RNN over one element type; recurrent.c includes this twice, with REAL float and double.
 *
 * One direction is: Z = X W^T + biases for all time steps at once, then step by step the gates from Z[t] + h R^T.
 * Rows of Z lie as those of X, [T, B] or [B, T]. Names: T steps, N batch, I input size, H hidden size, G gates.
 */
typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#define VEC NAME(vec)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))
#define PANEL (VECTORS * LANES)

typedef struct NAME(problem) {
  optc_context* ctx;
  int64_t kind, direction, batch_first, linear_before_reset, coupled, T, N, I, H, G, D, clipped;
  REAL clip;
  const int64_t* activations; /* three a direction */
  const double* slopes; /* alpha and beta of each */
  const REAL *x, *w, *r, *b, *h0, *c0, *p; /* NULL where omitted */
  const optc_tensor* lengths; /* NULL if all sequences have T steps */
  REAL *y, *yh, *yc; /* NULL where nobody asks */
} NAME(problem);

typedef struct NAME(pass) { /* one direction under way */
  const NAME(problem) * q;
  int64_t d;
  REAL *z, *h, *c, *gates, *reset, *packed_w, *packed_r;
} NAME(pass);

/* The weights w [n, k] (rows j < n) as panels of PANEL columns: out[panel][k][PANEL], zeros beyond n. */
static void NAME(pack)(const REAL* w, int64_t n, int64_t k, REAL* out) {
  for (int64_t first = 0; first < n; first += PANEL) {
    int64_t width = op_min(PANEL, n - first);
    for (int64_t block = 0; block < k; block += LANES) {
      int64_t depth = op_min(LANES, k - block); /* a block of rows stays in the first-level cache */
      if (width < PANEL) memset(out, 0, (size_t)(depth * PANEL) * sizeof(REAL));
      for (int64_t i = 0; i < width; i++) {
        const REAL* row = w + (first + i) * k + block;
        for (int64_t j = 0; j < depth; j++) out[j * PANEL + i] = row[j];
      }
      out += depth * PANEL;
    }
  }
}

/* rows x PANEL tile: out += a [rows, k] * panel. */
static inline __attribute__((always_inline)) void NAME(tile)(const REAL* a, int64_t lda, const REAL* panel, int64_t k,
                                                             REAL* out, int64_t ldo, const int rows, int64_t width) {
  VEC acc[ROWS][VECTORS];
  REAL edge[PANEL];
  UNROLL for (int i = 0; i < rows; i++) { UNROLL for (int v = 0; v < VECTORS; v++) acc[i][v] = (VEC){0}; }
  for (int64_t j = 0; j < k; j++, panel += PANEL) {
    VEC b[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) b[v] = *(const VEC*)(panel + v * LANES);
    UNROLL for (int i = 0; i < rows; i++) {
      UNROLL for (int v = 0; v < VECTORS; v++) acc[i][v] += a[i * lda + j] * b[v];
    }
  }
  UNROLL for (int i = 0; i < rows; i++) {
    REAL* to = width == PANEL ? out + i * ldo : edge;
    if (to == edge) memcpy(edge, out + i * ldo, (size_t)width * sizeof(REAL));
    UNROLL for (int v = 0; v < VECTORS; v++) * (VEC*)(to + v * LANES) += acc[i][v];
    if (to == edge) memcpy(out + i * ldo, edge, (size_t)width * sizeof(REAL));
  }
}

/* out [m, n] += a [m, k] * w^T with packed w, panels [from, to). */
static void NAME(multiply_packed)(const REAL* a, int64_t m, int64_t k, const REAL* packed, int64_t n, REAL* out,
                                  int64_t ldo, int64_t from, int64_t to) {
  for (int64_t p = from; p < to; p++) {
    const REAL* panel = packed + p * k * PANEL;
    int64_t width = op_min(PANEL, n - p * PANEL), i = 0;
    REAL* o = out + p * PANEL;
    for (; i + ROWS <= m; i += ROWS) NAME(tile)(a + i * k, k, panel, k, o + i * ldo, ldo, ROWS, width);
    for (; i + 2 <= m; i += 2) NAME(tile)(a + i * k, k, panel, k, o + i * ldo, ldo, 2, width);
    for (; i < m; i++) NAME(tile)(a + i * k, k, panel, k, o + i * ldo, ldo, 1, width);
  }
}

/* Sum of the lanes, four at a time. */
static inline __attribute__((always_inline)) REAL NAME(sum)(VEC v) {
  REAL part[VECTOR_BYTES / sizeof(REAL)], four[4] = {0};
  *(VEC*)part = v;
  UNROLL for (int64_t i = 0; i < LANES; i++) four[i % 4] += part[i];
  return (four[0] + four[1]) + (four[2] + four[3]);
}

/* out [m, n] += a [m, k] * w^T with w [n, k] as it is: for few rows, where packing would cost more than it saves. */
static void NAME(multiply_plain)(const REAL* a, int64_t m, int64_t k, const REAL* w, int64_t n, REAL* out,
                                 int64_t ldo) {
  for (int64_t i = 0; i < m; i++) {
    const REAL* x = a + i * k;
    for (int64_t j = 0; j < n; j += 4) {
      int64_t count = op_min(4, n - j), at = 0;
      const REAL* row[4];
      VEC acc[4] = {{0}, {0}, {0}, {0}};
      for (int64_t r = 0; r < 4; r++) row[r] = w + (j + op_min(r, count - 1)) * k;
      for (; at + LANES <= k; at += LANES) {
        VEC v = *(const VEC*)(x + at);
        for (int r = 0; r < 4; r++) acc[r] += v * *(const VEC*)(row[r] + at);
      }
      for (int64_t r = 0; r < count; r++) {
        REAL total = NAME(sum)(acc[r]);
        for (int64_t l = at; l < k; l++) total += x[l] * row[r][l];
        out[i * ldo + j + r] += total;
      }
    }
  }
}

static void NAME(multiply)(const REAL* a, int64_t m, int64_t k, const REAL* w, const REAL* packed, int64_t n, REAL* out,
                           int64_t ldo) {
  if (packed) NAME(multiply_packed)(a, m, k, packed, n, out, ldo, 0, (n + PANEL - 1) / PANEL);
  else NAME(multiply_plain)(a, m, k, w, n, out, ldo);
}

/* Applies activation `which` of the pass in place, clipping its input first. */
static void NAME(activate)(const NAME(pass) * s, int which, REAL* x, int64_t n) {
  const NAME(problem)* q = s->q;
  int64_t entry = s->d * 3 + which;
  if (q->clipped)
    for (int64_t i = 0; i < n; i++) x[i] = x[i] > q->clip ? q->clip : x[i] < -q->clip ? -q->clip : x[i];
  NAME(apply)(q->activations[entry], (REAL)q->slopes[2 * entry], (REAL)q->slopes[2 * entry + 1], x, n);
}

/* Gates of one sequence: z + recurrent part r in, new h (and c) out. */
static void NAME(lstm_cell)(const NAME(pass) * s, const REAL* z, REAL* g, REAL* h, REAL* c) {
  const NAME(problem)* q = s->q;
  int64_t H = q->H;
  const REAL* p = q->p ? q->p + s->d * 3 * H : NULL; /* peepholes of i, o, f */
  REAL *gi = g, *go = g + H, *gf = g + 2 * H, *gc = g + 3 * H;
  for (int64_t i = 0; i < 4 * H; i++) g[i] += z[i];
  if (p)
    for (int64_t i = 0; i < H; i++) gi[i] += p[i] * c[i], gf[i] += p[2 * H + i] * c[i];
  NAME(activate)(s, 0, gi, H);
  if (q->coupled)
    for (int64_t i = 0; i < H; i++) gf[i] = 1 - gi[i];
  else NAME(activate)(s, 0, gf, H);
  NAME(activate)(s, 1, gc, H);
  for (int64_t i = 0; i < H; i++) c[i] = gf[i] * c[i] + gi[i] * gc[i];
  if (p)
    for (int64_t i = 0; i < H; i++) go[i] += p[H + i] * c[i];
  NAME(activate)(s, 0, go, H);
  memcpy(h, c, (size_t)H * sizeof(REAL));
  NAME(activate)(s, 2, h, H);
  for (int64_t i = 0; i < H; i++) h[i] *= go[i];
}

/* Update and reset gates are g[0 .. 2H); the hidden gate's recurrent part is there already if it comes before reset. */
static void NAME(gru_gates)(const NAME(pass) * s, const REAL* z, REAL* g, const REAL* h, REAL* reset) {
  const NAME(problem)* q = s->q;
  int64_t H = q->H;
  for (int64_t i = 0; i < 2 * H; i++) g[i] += z[i];
  NAME(activate)(s, 0, g, 2 * H);
  if (q->linear_before_reset) {
    const REAL* b = q->b ? q->b + s->d * 6 * H + 5 * H : NULL; /* recurrence bias of the hidden gate */
    for (int64_t i = 0; i < H; i++) g[2 * H + i] = g[H + i] * (g[2 * H + i] + (b ? b[i] : 0));
  } else {
    for (int64_t i = 0; i < H; i++) reset[i] = g[H + i] * h[i];
  }
}

static void NAME(gru_cell)(const NAME(pass) * s, const REAL* z, REAL* g, REAL* h) {
  int64_t H = s->q->H;
  for (int64_t i = 0; i < H; i++) g[2 * H + i] += z[2 * H + i];
  NAME(activate)(s, 1, g + 2 * H, H);
  for (int64_t i = 0; i < H; i++) h[i] = (1 - g[i]) * g[2 * H + i] + g[i] * h[i];
}

/* Adds the biases to Z: W's and R's, but R's of the GRU's hidden gate only if it is applied after reset. */
static void NAME(start_rows)(const NAME(pass) * s) {
  const NAME(problem)* q = s->q;
  int64_t width = q->G * q->H;
  const REAL* b = q->b ? q->b + s->d * 2 * width : NULL;
  int64_t joint = q->kind == GRU && q->linear_before_reset ? 2 * q->H : width;
  for (int64_t i = 0; i < width; i++) s->z[i] = b ? b[i] + (i < joint ? b[width + i] : 0) : 0;
  for (int64_t row = 1; row < q->T * q->N; row++) memcpy(s->z + row * width, s->z, (size_t)width * sizeof(REAL));
}

static int32_t NAME(project)(int32_t task, int32_t tasks, void* argument) {
  NAME(pass)* s = argument;
  const NAME(problem)* q = s->q;
  int64_t panels = (q->G * q->H + PANEL - 1) / PANEL;
  NAME(multiply_packed)(q->x, q->T * q->N, q->I, s->packed_w, q->G * q->H, s->z, q->G * q->H, panels * task / tasks,
                        panels * (task + 1) / tasks);
  return OPTC_OK;
}

/* The recurrence of direction passes[task]. */
static int32_t NAME(recur)(int32_t task, int32_t tasks, void* argument) {
  const NAME(pass)* s = (const NAME(pass)*)argument + task;
  const NAME(problem)* q = s->q;
  (void)tasks;
  int64_t H = q->H, N = q->N, T = q->T, width = q->G * H, backward = q->direction == 1 || s->d == 1;
  const REAL* r = q->r + s->d * width * H;
  int64_t early = q->kind == GRU && !q->linear_before_reset ? 2 * H : width; /* gates that need h itself */
  const REAL* late_packed = s->packed_r ? s->packed_r + (2 * H + PANEL - 1) / PANEL * PANEL * H : NULL;
  for (int64_t step = 0; step < T; step++) {
    memset(s->gates, 0, (size_t)(N * width) * sizeof(REAL));
    NAME(multiply)(s->h, N, H, r, s->packed_r, early, s->gates, width);
    for (int pass = 0; pass < 2; pass++) { /* the second pass: what needs r * h (GRU) or ends the step */
      if (pass == 0 && q->kind != GRU) continue;
      if (pass == 1 && early != width)
        NAME(multiply)(s->reset, N, H, r + 2 * H * H, late_packed, H, s->gates + 2 * H, width);
      for (int64_t n = 0; n < N; n++) {
        int64_t length = q->lengths ? op_get_int(q->lengths, n) : T;
        int64_t t = backward && step < length ? length - 1 - step : step;
        const REAL* z = s->z + (q->batch_first ? n * T + t : t * N + n) * width;
        REAL *g = s->gates + n * width, *h = s->h + n * H;
        REAL* y = q->y ? q->y + (q->batch_first ? (n * T + t) * q->D + s->d : (t * q->D + s->d) * N + n) * H : NULL;
        if (step >= length) {
          if (y && pass == 1) memset(y, 0, (size_t)H * sizeof(REAL));
          continue;
        }
        if (pass == 0) {
          NAME(gru_gates)(s, z, g, h, s->reset + n * H);
          continue;
        }
        if (q->kind == GRU) NAME(gru_cell)(s, z, g, h);
        else if (q->kind == LSTM) NAME(lstm_cell)(s, z, g, h, s->c + n * H);
        else {
          for (int64_t i = 0; i < H; i++) h[i] = g[i] + z[i];
          NAME(activate)(s, 0, h, H);
        }
        if (y) memcpy(y, h, (size_t)H * sizeof(REAL));
      }
    }
  }
  for (int64_t n = 0; q->lengths && n < N; n++) { /* an empty sequence ends in zeros, as in ONNX Runtime */
    if (op_get_int(q->lengths, n)) continue;
    memset(s->h + n * H, 0, (size_t)H * sizeof(REAL));
    memset(s->c + n * H, 0, (size_t)H * sizeof(REAL));
  }
  return OPTC_OK;
}

/* Copies the state of direction d, [N, H], from or to the user's tensor. */
static void NAME(state)(const NAME(problem) * q, int64_t d, REAL* own, REAL* theirs, int to_own) {
  if (!theirs) return;
  for (int64_t n = 0; n < q->N; n++) {
    REAL* other = theirs + (q->batch_first ? n * q->D + d : d * q->N + n) * q->H;
    memcpy(to_own ? own + n * q->H : other, to_own ? other : own + n * q->H, (size_t)q->H * sizeof(REAL));
  }
}

static int32_t NAME(run)(const NAME(problem) * q) {
  int64_t width = q->G * q->H, rows = q->T * q->N, H = q->H, wide = (width / PANEL + 3) * PANEL;
  int pack_w = rows >= 4 * ROWS, pack_r = q->T >= 8;
  int64_t each = rows * width + q->N * (3 * H + width) + (pack_w ? wide * q->I : 0) + (pack_r ? wide * H : 0);
  REAL* work;
  OP_TRY(op_scratch(q->ctx, each * q->D, sizeof(REAL), (void**)&work));
  NAME(pass) passes[2];
  for (int64_t d = 0; d < q->D; d++) {
    NAME(pass)* s = &passes[d];
    REAL* at = work + d * each;
    *s = (NAME(pass)){.q = q, .d = d, .z = at, .gates = at + rows * width};
    s->h = s->gates + q->N * width, s->c = s->h + q->N * H, s->reset = s->c + q->N * H;
    at = s->reset + q->N * H;
    memset(s->h, 0, (size_t)(2 * q->N * H) * sizeof(REAL));
    NAME(state)(q, d, s->h, (REAL*)q->h0, 1);
    NAME(state)(q, d, s->c, (REAL*)q->c0, 1);
    NAME(start_rows)(s);
    const REAL *w = q->w + d * width * q->I, *r = q->r + d * width * H;
    if (pack_w) {
      s->packed_w = at, at += wide * q->I;
      NAME(pack)(w, width, q->I, s->packed_w);
      if (rows * width * q->I < PARALLEL_WORK) NAME(project)(0, 1, s);
      else OP_TRY(optc_parallel(q->ctx, NAME(project), s, 0));
    } else {
      NAME(multiply_plain)(q->x, rows, q->I, w, width, s->z, width);
    }
    if (pack_r) { /* the GRU's hidden gate begins a panel of its own */
      int64_t first = q->kind == GRU && !q->linear_before_reset ? 2 * H : width;
      s->packed_r = at;
      NAME(pack)(r, first, H, at);
      if (first != width) NAME(pack)(r + first * H, H, H, at + (first + PANEL - 1) / PANEL * PANEL * H);
    }
  }
  if (q->D == 2 && rows * width * H >= PARALLEL_WORK) OP_TRY(optc_parallel(q->ctx, NAME(recur), passes, 2));
  else
    for (int32_t d = 0; d < q->D; d++) OP_TRY(NAME(recur)(d, (int32_t)q->D, passes));
  for (int64_t d = 0; d < q->D; d++) {
    NAME(state)(q, d, passes[d].h, q->yh, 0);
    NAME(state)(q, d, passes[d].c, q->yc, 0);
  }
  optc_release(q->ctx, work);
  return OPTC_OK;
}

/* The problem of a node whose tensors all hold REAL. */
static int32_t NAME(solve)(optc_context* ctx, const optc_tensor* in, const optc_tensor* lengths, void* const* results,
                           const int64_t* ints, const double* floats) {
  int64_t first = ints[LAYOUT];
  NAME(problem)
  q = {.ctx = ctx,
       .kind = ints[KIND],
       .direction = ints[DIRECTION],
       .batch_first = first,
       .linear_before_reset = ints[LINEAR_BEFORE_RESET],
       .coupled = ints[INPUT_FORGET],
       .clipped = ints[CLIPPED],
       .clip = (REAL)floats[0],
       .activations = ints + ACTIVATIONS,
       .slopes = floats + 1,
       .T = in[0].shape[first ? 1 : 0],
       .N = in[0].shape[first ? 0 : 1],
       .I = in[0].shape[2],
       .H = in[2].shape[2],
       .G = gates_of(ints[KIND]),
       .D = in[1].shape[0],
       .lengths = lengths,
       .x = in[0].data,
       .w = in[1].data,
       .r = in[2].data,
       .b = in[3].data,
       .h0 = in[5].data,
       .c0 = in[6].data,
       .p = in[7].data,
       .y = results[0],
       .yh = results[1],
       .yc = results[2]};
  return NAME(run)(&q);
}
#undef VEC
#undef LANES
#undef PANEL
