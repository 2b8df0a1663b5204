/* Random numbers: RandomNormal, RandomUniform, Bernoulli, Multinomial, Dropout in training. Generator: xoshiro256**. */
#include "ops.h"

typedef struct generator { uint64_t s[4]; } generator;

static uint64_t mix(uint64_t* state) {   /* splitmix64, to spread a seed */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* The same numbers every run if `seeded`, else others each time. */
static generator generator_new(int64_t seeded, double seed) {
  static uint64_t calls;
  uint64_t state;
  memcpy(&state, &seed, sizeof state);
  if (!seeded) state = (uint64_t)optc_now() ^ __atomic_add_fetch(&calls, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);
  generator g;
  for (int i = 0; i < 4; i++) g.s[i] = mix(&state);
  return g;
}

static uint64_t rotate(uint64_t x, int k) { return x << k | x >> (64 - k); }

static double uniform(generator* g) {   /* in [0, 1) */
  uint64_t* s = g->s;
  uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t, s[3] = rotate(s[3], 45);
  return (double)(result >> 11) * 0x1p-53;
}

static double normal(generator* g) {   /* Box-Muller */
  double radius = sqrt(-2 * log(1 - uniform(g)));
  return radius * cos(6.28318530717958647692 * uniform(g));
}

/* in: a tensor for its shape, or none; ints: seeded, is normal, rank (used without an input), dims;
 * floats: seed, mean or low, scale or high. */
int32_t optc_op_random(OP_ARGUMENTS) {
  OP_UNUSED;
  if (op_has(in, num_in, 0)) OP_TRY(op_output(ctx, "Random", &out[0], in[0].rank, in[0].shape));
  else OP_TRY(op_output(ctx, "Random", &out[0], (int32_t)ints[2], ints + 3));
  generator g = generator_new(ints[0], floats[0]);
  int64_t count = op_count(&out[0]);
  for (int64_t i = 0; i < count; i++) op_put(&out[0], i, ints[1] ? floats[1] + floats[2] * normal(&g) : floats[1] + (floats[2] - floats[1]) * uniform(&g));
  return OPTC_OK;
}

/* in: probabilities; ints: seeded; floats: seed. */
int32_t optc_op_bernoulli(OP_ARGUMENTS) {
  OP_UNUSED;
  OP_TRY(op_output(ctx, "Bernoulli", &out[0], in[0].rank, in[0].shape));
  generator g = generator_new(ints[0], floats[0]);
  int64_t count = op_count(&in[0]);
  for (int64_t i = 0; i < count; i++) op_put(&out[0], i, uniform(&g) < op_get(&in[0], i));
  return OPTC_OK;
}

/* in: unnormalized log probabilities [N, C]; out: classes [N, samples]; ints: seeded, samples; floats: seed. */
int32_t optc_op_multinomial(OP_ARGUMENTS) {
  OP_UNUSED;
  if (in[0].rank != 2 || in[0].shape[1] < 1) return op_fail(ctx, OPTC_RUNTIME, "Multinomial: needs log probabilities [N, C]");
  int64_t classes = in[0].shape[1], shape[2] = {in[0].shape[0], ints[1]};
  OP_TRY(op_output(ctx, "Multinomial", &out[0], 2, shape));
  generator g = generator_new(ints[0], floats[0]);
  for (int64_t n = 0; n < shape[0]; n++) {
    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < classes; c++) top = fmax(top, op_get(&in[0], n * classes + c));
    for (int64_t c = 0; c < classes; c++) sum += exp(op_get(&in[0], n * classes + c) - top);
    for (int64_t k = 0; k < ints[1]; k++) {
      double left = uniform(&g) * sum;
      int64_t chosen = 0;
      for (; chosen < classes - 1; chosen++) if ((left -= exp(op_get(&in[0], n * classes + chosen) - top)) < 0) break;
      op_put_int(&out[0], n * ints[1] + k, chosen);
    }
  }
  return OPTC_OK;
}

/* in: data, ratio (optional: 0.5), training mode (optional: false); out: data, mask (optional); ints: seeded;
 * floats: seed. */
int32_t optc_op_dropout(OP_ARGUMENTS) {
  OP_UNUSED;
  double ratio = op_has(in, num_in, 1) ? op_get(&in[1], 0) : 0.5;
  int training = op_has(in, num_in, 2) && op_get(&in[2], 0) != 0;
  for (int32_t i = 0; i < num_out; i++) OP_TRY(op_output(ctx, "Dropout", &out[i], in[0].rank, in[0].shape));
  generator g = generator_new(ints[0], floats[0]);
  int64_t count = op_count(&in[0]), item = op_itemsize(in[0].dtype);
  for (int64_t i = 0; i < count; i++) {
    int keep = !training || uniform(&g) >= ratio;
    if (training) op_put(&out[0], i, keep ? op_get(&in[0], i) / (1 - ratio) : 0);
    else memcpy((char*)out[0].data + i * item, (const char*)in[0].data + i * item, (size_t)item);
    if (num_out > 1) ((uint8_t*)out[1].data)[i] = (uint8_t)keep;
  }
  return OPTC_OK;
}
