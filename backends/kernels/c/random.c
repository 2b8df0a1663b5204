/* Random numbers: RandomNormal, RandomUniform, Bernoulli, Multinomial, Dropout in training.
 * The generator is numpy's of old, MT19937 (Matsumoto and Nishimura 1998), so that a seed means what it means there. */
#include "ops.h"

enum { WORDS = 624, SHIFT = 397 };
typedef struct generator {
  uint32_t word[WORDS];
  int next;
} generator;

/* The same numbers every run if `seeded`, else others each time. */
static void start(generator* g, int64_t seeded, double seed) {
  static uint32_t calls;
  g->word[0] = seeded ? (uint32_t)(int64_t)seed
                      : (uint32_t)optc_now() ^ __atomic_add_fetch(&calls, 0x9e3779b9u, __ATOMIC_RELAXED);
  for (int i = 1; i < WORDS; i++) g->word[i] = 1812433253u * (g->word[i - 1] ^ g->word[i - 1] >> 30) + (uint32_t)i;
  g->next = WORDS;
}

static uint32_t draw(generator* g) {
  if (g->next == WORDS) {
    for (int i = 0; i < WORDS; i++) {
      uint32_t y = (g->word[i] & 0x80000000u) | (g->word[(i + 1) % WORDS] & 0x7fffffffu);
      g->word[i] = g->word[(i + SHIFT) % WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    g->next = 0;
  }
  uint32_t y = g->word[g->next++];
  y ^= y >> 11;
  y ^= y << 7 & 0x9d2c5680u;
  y ^= y << 15 & 0xefc60000u;
  return y ^ y >> 18;
}

static double uniform(generator* g) { /* in [0, 1), of 53 bits */
  uint32_t high = draw(g) >> 5, low = draw(g) >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

static double normal(generator* g) { /* Box-Muller */
  double radius = sqrt(-2 * log(1 - uniform(g)));
  return radius * cos(6.28318530717958647692 * uniform(g));
}

/* in: a tensor for its shape, or none; ints: seeded, is normal, rank (used without an input), dims;
 * floats: seed, mean or low, scale or high. */
int32_t optc_op_random(OP_ARGUMENTS) {
  OP_UNUSED;
  if (op_has(in, num_in, 0)) OP_TRY(op_output(ctx, "Random", &out[0], in[0].rank, in[0].shape));
  else OP_TRY(op_output(ctx, "Random", &out[0], (int32_t)ints[2], ints + 3));
  generator g;
  start(&g, ints[0], floats[0]);
  int64_t count = op_count(&out[0]);
  for (int64_t i = 0; i < count; i++)
    op_put(&out[0], i,
           ints[1] ? floats[1] + floats[2] * normal(&g) : floats[1] + (floats[2] - floats[1]) * uniform(&g));
  return OPTC_OK;
}

/* in: probabilities; ints: seeded; floats: seed. */
int32_t optc_op_bernoulli(OP_ARGUMENTS) {
  OP_UNUSED;
  OP_TRY(op_output(ctx, "Bernoulli", &out[0], in[0].rank, in[0].shape));
  generator g;
  start(&g, ints[0], floats[0]);
  int64_t count = op_count(&in[0]);
  for (int64_t i = 0; i < count; i++) op_put(&out[0], i, uniform(&g) < op_get(&in[0], i));
  return OPTC_OK;
}

/* in: unnormalized log probabilities [N, C]; out: classes [N, samples]; ints: seeded, samples; floats: seed. */
int32_t optc_op_multinomial(OP_ARGUMENTS) {
  OP_UNUSED;
  if (in[0].rank != 2 || in[0].shape[1] < 1)
    return op_fail(ctx, OPTC_RUNTIME, "Multinomial: needs log probabilities [N, C]");
  int64_t classes = in[0].shape[1], shape[2] = {in[0].shape[0], ints[1]};
  OP_TRY(op_output(ctx, "Multinomial", &out[0], 2, shape));
  generator g;
  start(&g, ints[0], floats[0]);
  for (int64_t n = 0; n < shape[0]; n++) {
    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < classes; c++) top = fmax(top, op_get(&in[0], n * classes + c));
    for (int64_t c = 0; c < classes; c++) sum += exp(op_get(&in[0], n * classes + c) - top);
    for (int64_t k = 0; k < ints[1]; k++) {
      double left = uniform(&g) * sum;
      int64_t chosen = 0;
      for (; chosen < classes - 1; chosen++)
        if ((left -= exp(op_get(&in[0], n * classes + chosen) - top)) < 0) break;
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
  generator g;
  start(&g, ints[0], floats[0]);
  int64_t count = op_count(&in[0]), item = op_itemsize(in[0].dtype);
  for (int64_t i = 0; i < count; i++) {
    int keep = !training || uniform(&g) >= ratio;
    if (training) op_put(&out[0], i, keep ? op_get(&in[0], i) / (1 - ratio) : 0);
    else memcpy((char*)out[0].data + i * item, (const char*)in[0].data + i * item, (size_t)item);
    if (num_out > 1) ((uint8_t*)out[1].data)[i] = (uint8_t)keep;
  }
  return OPTC_OK;
}
