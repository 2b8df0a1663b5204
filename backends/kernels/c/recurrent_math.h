/* Vector sizes and activations of the recurrent ops: recurrent.c and recurrent_packed.c. */
#ifndef OPTC_RECURRENT_MATH_H
#define OPTC_RECURRENT_MATH_H
#include <stdint.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define VECTORS 4 /* of a tile, times ROWS accumulators: as many as registers hold */
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define VECTORS 2
#else
#define VECTOR_BYTES 16
#ifdef __aarch64__
#define VECTORS 4
#else
#define VECTORS 2
#endif
#endif
#define ROWS 6
#define UNROLL _Pragma("GCC unroll 16") /* what is indexed by the loop then lives in registers */

/* exp to 2 ulp, for loops that the compiler turns into vectors: no branch, no call. 2^n by the exponent bits. */
static inline float fast_exp(float x) {
  x = x < -87.3f ? -87.3f : x > 88.7f ? 88.7f : x;
  float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* 1.5 * 2^23 rounds to an integer */
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f; /* Cephes expf */
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union {
    float f;
    uint32_t u;
  } bits = {.f = shifted}, scale;
  scale.u = (bits.u - 0x4b400000u + 127u) << 23;
  return p * scale.f;
}

static inline float fast_tanh(float x) {
  float z = x * x, wide = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
  float p = -5.70498872745e-3f; /* Cephes tanhf, below 0.625 */
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  float narrow = p * z * x + x;
  return z < 0.390625f ? narrow : wide;
}
#endif
