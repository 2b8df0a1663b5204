/* What one core can do at best: each function repeats one kind of work `turns` times and returns how much it did, in
 * operations (a multiply-add is two) or bytes; -1 where the processor or the compiler's target has no such instruction.
 * Compiled for the target whose code is measured, so that AVX2 code is held against AVX2. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* syscall */
#endif
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX512F__)
#define VECTOR 64
#elif defined(__AVX__)
#define VECTOR 32
#else
#define VECTOR 16
#endif
#define API __attribute__((visibility("default")))

typedef float floats __attribute__((vector_size(VECTOR)));
typedef int32_t ints __attribute__((vector_size(VECTOR)));

/* Twelve sums hide the latency of two units, and leave room for the factors where there are 16 registers. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define SUMS 12

static volatile float sink;

API int64_t ceiling_f32(int64_t turns) {
  floats a, b;
  for (int i = 0; i < VECTOR / 4; i++) a[i] = 0.5f, b[i] = 1.0f;
#define DECLARE(i) floats s##i = b;
#define TURN(i) s##i = s##i * a + b;
#define HIDE(i) __asm__ volatile("" : "+x"(s##i));
#if !defined(__x86_64__)
#undef HIDE
#define HIDE(i) __asm__ volatile("" : "+w"(s##i));
#endif
#define GATHER(i) total += s##i;
  EACH(DECLARE)
  for (int64_t t = 0; t < turns; t++) {
    EACH(TURN)
    EACH(HIDE) /* or the loop could be folded into fewer turns */
  }
  floats total = b;
  EACH(GATHER)
  sink = total[0];
  return turns * SUMS * (VECTOR / 4) * 2;
#undef DECLARE
#undef TURN
#undef GATHER
}

/* Bytes read, in whole turns over `bytes` (a multiple of 8 vectors) at `data`. */
API int64_t ceiling_read(const void* data, int64_t bytes, int64_t turns) {
  ints s0 = {0}, s1 = s0, s2 = s0, s3 = s0;
  for (int64_t t = 0; t < turns; t++) {
    const ints* at = data;
    const ints* end = at + bytes / VECTOR;
    for (; at < end; at += 8) {
      s0 += at[0] ^ at[1];
      s1 += at[2] ^ at[3];
      s2 += at[4] ^ at[5];
      s3 += at[6] ^ at[7];
    }
    __asm__ volatile("" : : : "memory");
  }
  s0 += s1 + s2 + s3;
  sink = (float)s0[0];
  return turns * bytes;
}

#if defined(__AMX_TILE__)
/* Tiles 0-3 gather 16 x 16 sums each; 4-7 are factors of 16 rows x 64 bytes. */
static int tiles(void) {
  static const struct {
    uint8_t palette, start, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config __attribute__((aligned(64))) = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */)) return 0;
  _tile_loadconfig(&config);
  return 1;
}
#define PRODUCTS(dot) dot(0, 4, 6) dot(1, 4, 7) dot(2, 5, 6) dot(3, 5, 7)
#define TILE_CEILING(dot, depth)              \
  if (!tiles()) return -1;                    \
  for (int64_t t = 0; t < turns; t++) {       \
    PRODUCTS(dot)                             \
  }                                           \
  _tile_release();                            \
  return turns * 4 * 16 * 16 * (depth) * 2;
#endif

API int64_t ceiling_int8(int64_t turns) {
#if defined(__AMX_INT8__)
#define DOT(c, a, b) _tile_dpbusd(c, a, b);
  TILE_CEILING(DOT, 64)
#undef DOT
#elif defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#if defined(__AVX512VNNI__)
  __m512i a = _mm512_set1_epi8(1);
#define DECLARE(i) __m512i s##i = a;
#define TURN(i) s##i = _mm512_dpbusd_epi32(s##i, a, a);
#define GATHER(i) total += _mm512_cvtsi512_si32(s##i);
#define PER_TURN (64 * 2)
#else
  __m256i a = _mm256_set1_epi8(1);
#define DECLARE(i) __m256i s##i = a;
#define TURN(i) s##i = _mm256_dpbusd_avx_epi32(s##i, a, a);
#define GATHER(i) total += _mm256_cvtsi256_si32(s##i);
#define PER_TURN (32 * 2)
#endif
  EACH(DECLARE)
  for (int64_t t = 0; t < turns; t++) {
    EACH(TURN)
    EACH(HIDE)
  }
  int32_t total = 0;
  EACH(GATHER)
  sink = (float)total;
  return turns * SUMS * PER_TURN;
#undef DECLARE
#undef TURN
#undef GATHER
#elif defined(__AVX2__)
  /* exact without a byte product: bytes widened to 16 bits, two products summed in 32 */
  __m256i a = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
#define DECLARE(i) __m256i s##i = zero;
#define TURN(i) s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(a, a));
#define GATHER(i) total += _mm256_cvtsi256_si32(s##i);
  EACH(DECLARE)
  for (int64_t t = 0; t < turns; t++) {
    __asm__ volatile("" : "+x"(a));
    EACH(TURN)
    EACH(HIDE)
  }
  int32_t total = 0;
  EACH(GATHER)
  sink = (float)total;
  return turns * SUMS * 16 * 2;
#undef DECLARE
#undef TURN
#undef GATHER
#else
  (void)turns;
  return -1;
#endif
}

API int64_t ceiling_bf16(int64_t turns) {
#if defined(__AMX_BF16__)
#define DOT(c, a, b) _tile_dpbf16ps(c, a, b);
  TILE_CEILING(DOT, 32)
#undef DOT
#elif defined(__AVX512BF16__)
  __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
#define DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define TURN(i) s##i = _mm512_dpbf16_ps(s##i, a, a);
#define GATHER(i) total = _mm512_add_ps(total, s##i);
  EACH(DECLARE)
  for (int64_t t = 0; t < turns; t++) {
    EACH(TURN)
    EACH(HIDE)
  }
  __m512 total = _mm512_setzero_ps();
  EACH(GATHER)
  sink = _mm512_cvtss_f32(total);
  return turns * SUMS * 32 * 2;
#else
  (void)turns;
  return -1;
#endif
}
