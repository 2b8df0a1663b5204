// What the kernels for NVIDIA GPUs are made of: tensor-core products over a pipeline of tiles in shared memory, rows that
// a warp reduces, and attention. Each kernel of an artifact calls one of these and applies its own epilogue.
//
// Tiles lie in shared memory as rows of 64 bytes along k, in 16-byte chunks whose order depends on the row, so that eight
// rows of one chunk meet all banks once. What a fragment holds is the same for all element types if counted in 32-bit
// words: 8 rows (or columns) by 4 words, lane = 4 * row + word.
#pragma once
#ifndef OPTC_EMULATED
#include <stdint.h>
#endif

namespace optc {

constexpr int kWarp = 32, kChunk = 16, kRow = 64, kChunks = kRow / kChunk;

#ifndef OPTC_EMULATED  // the tests' emulator.h says in C++ what these do

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// 16 bytes from global to shared memory, done when `wait` says so.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#else
  *(uint4*)shared = *(const uint4*)global;
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most `Pending` groups of this thread are under way.
template <int Pending>
__device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements; lane l shows the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c[16][8] += a[16][32] * b[32][8], bytes.
__device__ __forceinline__ void mma_u8s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int i = 0; i < 4; i++)
    asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[i % 2 * 2]), "+r"(c[i % 2 * 2 + 1])
                 : "r"(a[i]), "r"(b[i / 2]));
#endif
}

// c[16][8] += a[16][8] * b[8][8], floats rounded to 10 bits of mantissa.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The nearest number of 10 bits of mantissa.
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
#if __CUDA_ARCH__ >= 800
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  return bits;
#endif
}

#endif

// Arithmetics: the elements of A and B, their sums, and one step of 32 bytes along k where tensor cores take it.
struct U8S8 {
  using Element = unsigned char;
  using Sum = int;
  static constexpr bool tensor_cores = true;
  static __device__ __forceinline__ void step(int (&c)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_u8s8(c, a, b); }
  static __device__ __forceinline__ uint32_t rounded(uint32_t word) { return word; }
};
struct TF32 {
  using Element = float;
  using Sum = float;
  static constexpr bool tensor_cores = true;
  static __device__ __forceinline__ void step(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_tf32(c, a, b); }
  static __device__ __forceinline__ uint32_t rounded(uint32_t word) { return to_tf32(word); }
};
struct F32 {  // multiply-adds of each thread: exact products, sums in the order of k
  using Element = float;
  using Sum = float;
  static constexpr bool tensor_cores = false;
};

// An image, channels last, seen as a matrix: its rows are output pixels, its columns (k) are (tap y, tap x, channel) of
// one group of channels. What lies beyond the image is `border`. A plain matrix is an image of one line of 1x1 taps.
template <class T>
struct Image {
  const T* x;
  int height, width, channels, group_channels, out_height, out_width;
  int kernel_y, kernel_x, stride_y, stride_x, top, left, dilation_y, dilation_x;
  T border;
};

// A position along k.
struct Tap {
  int c, x, y;
  template <class T>
  __device__ __forceinline__ void advance(const Image<T>& g, int by) {
    c += by;
    while (c >= g.group_channels) {
      c -= g.group_channels;
      if (++x == g.kernel_x) x = 0, y++;
    }
  }
};

// A 32-bit word full of one element.
__device__ __forceinline__ uint32_t repeated(unsigned char value) { return value * 0x01010101u; }
__device__ __forceinline__ uint32_t repeated(float value) { return __float_as_uint(value); }

// The pixel that a row of the matrix begins at.
template <class T>
struct Window {
  const T* image;
  int y, x;

  __device__ __forceinline__ Window() {}
  __device__ __forceinline__ Window(const Image<T>& g, int row) {
    const int line = row / g.out_width, number = line / g.out_height;
    image = g.x + (long long)number * g.height * g.width * g.channels;
    y = (line - number * g.out_height) * g.stride_y - g.top;
    x = (row - line * g.out_width) * g.stride_x - g.left;
  }
  // The address of an element, or null beyond the image.
  __device__ __forceinline__ const T* at(const Image<T>& g, const Tap& tap) const {
    const int py = y + tap.y * g.dilation_y, px = x + tap.x * g.dilation_x;
    const bool inside = tap.y < g.kernel_y && (unsigned)py < (unsigned)g.height && (unsigned)px < (unsigned)g.width;
    return inside ? image + ((long long)py * g.width + px) * g.channels + tap.c : nullptr;
  }
  // Sixteen bytes along k; `whole`: they are one piece of memory, and aligned.
  __device__ __forceinline__ void fetch(char* shared, const Image<T>& g, Tap tap, bool whole) const {
    const T* from = whole ? at(g, tap) : nullptr;
    if (from) {
      copy_async(shared, from);
    } else if (whole) {
      const uint32_t word = repeated(g.border);
      *(uint4*)shared = make_uint4(word, word, word, word);
    } else {
#pragma unroll 1
      for (int i = 0; i < kChunk / (int)sizeof(T); i++, tap.advance(g, 1)) {
        from = at(g, tap);
        ((T*)shared)[i] = from ? *from : g.border;
      }
    }
  }
};

__device__ __forceinline__ int swizzled(int row, int chunk) { return row * kRow + ((chunk ^ (row >> 1 & 3)) << 4); }

// One block's part of A times B: `sums` of this thread are those of a fragment of mma, for each 16x8 tile of its warp's
// part, row by row of tiles: element e of a tile lies at row lane / 4 + e / 2 * 8, column lane % 4 * 2 + e % 2.
//
// B is packed [group][column][k], `k_rows` rows of 64 bytes a column, zeros after the last k. Blocks: x over rows, y over
// columns, z over groups; WarpsM x WarpsN warps.
template <class Kind, int BlockM, int BlockN, int WarpsM, int WarpsN, int Stages, class... Numbers>
__device__ __forceinline__ void gemm(typename Kind::Sum* sums, const void* weights, int rows, int columns, int k_rows,
                                     const typename Kind::Element* x, Numbers... numbers) {
  using T = typename Kind::Element;
  const Image<T> g = {x, numbers...};
  constexpr int kThreads = WarpsM * WarpsN * kWarp, kPass = kThreads / kChunks;
  constexpr int kWarpM = BlockM / WarpsM, kWarpN = BlockN / WarpsN, kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  constexpr int kPassesA = BlockM / kPass, kPassesB = BlockN / kPass, kElements = kRow / sizeof(T);
  static_assert(BlockM % kPass == 0 && BlockN % kPass == 0 && kTilesN % 2 == 0, "tiles that threads share evenly");
  alignas(128) __shared__ char tiles[Stages][(BlockM + BlockN) * kRow];

  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp, chunk = thread % kChunks;
  const bool whole = g.group_channels % (kChunk / (int)sizeof(T)) == 0 && g.channels % (kChunk / (int)sizeof(T)) == 0 &&
                     (size_t)g.x % kChunk == 0;

  Window<T> windows[kPassesA];
  const char* panels[kPassesB];
#pragma unroll
  for (int i = 0; i < kPassesA; i++) {
    const int row = blockIdx.x * BlockM + i * kPass + thread / kChunks;
    windows[i] = Window<T>(g, row < rows ? row : rows - 1);
    windows[i].image += blockIdx.z * g.group_channels;
  }
#pragma unroll
  for (int i = 0; i < kPassesB; i++) {
    const int column = blockIdx.y * BlockN + i * kPass + thread / kChunks;
    const long long at = (long long)blockIdx.z * columns + (column < columns ? column : columns - 1);
    panels[i] = (const char*)weights + at * k_rows * kRow + chunk * kChunk;
  }
  Tap tap = {0, 0, 0};
  tap.advance(g, chunk * (kChunk / (int)sizeof(T)));

  auto fetch = [&](int number) {
    if (number < k_rows) {
      char* tile = tiles[number % Stages];
#pragma unroll
      for (int i = 0; i < kPassesA; i++)
        windows[i].fetch(tile + swizzled(i * kPass + thread / kChunks, chunk), g, tap, whole);
#pragma unroll
      for (int i = 0; i < kPassesB; i++)
        copy_async(tile + BlockM * kRow + swizzled(i * kPass + thread / kChunks, chunk), panels[i] + (long long)number * kRow);
      tap.advance(g, kElements);
    }
    commit();
  };

  typename Kind::Sum c[kTilesM][kTilesN][4];
#pragma unroll
  for (int i = 0; i < kTilesM * kTilesN * 4; i++) c[i / 4 / kTilesN][i / 4 % kTilesN][i % 4] = 0;
  const int first_m = warp / WarpsN * kWarpM, first_n = warp % WarpsN * kWarpN;

#pragma unroll
  for (int i = 0; i < Stages - 1; i++) fetch(i);
  for (int number = 0; number < k_rows; number++) {
    wait<Stages - 2>();
    __syncthreads();
    fetch(number + Stages - 1);
    const char* tile_a = tiles[number % Stages];
    const char* tile_b = tile_a + BlockM * kRow;
    if constexpr (Kind::tensor_cores) {
#pragma unroll
      for (int step = 0; step < 2; step++) {
        uint32_t a[kTilesM][4], b[kTilesN / 2][4];
#pragma unroll
        for (int i = 0; i < kTilesM; i++)
          ldmatrix(a[i], tile_a + swizzled(first_m + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
        for (int i = 0; i < kTilesN / 2; i++)
          ldmatrix(b[i], tile_b + swizzled(first_n + i * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < kTilesM * 4; i++) a[i / 4][i % 4] = Kind::rounded(a[i / 4][i % 4]);
#pragma unroll
        for (int i = 0; i < kTilesN * 2; i++) b[i / 4][i % 4] = Kind::rounded(b[i / 4][i % 4]);
#pragma unroll
        for (int i = 0; i < kTilesM; i++)
#pragma unroll
          for (int j = 0; j < kTilesN; j++) Kind::step(c[i][j], a[i], b[j / 2] + j % 2 * 2);
      }
    } else {
#pragma unroll 1
      for (int step = 0; step < kChunks; step++) {
        float a[kTilesM * 2][4];
#pragma unroll
        for (int i = 0; i < kTilesM * 2; i++)
          *(float4*)a[i] = *(const float4*)(tile_a + swizzled(first_m + i * 8 + lane / 4, step));
#pragma unroll
        for (int j = 0; j < kTilesN * 2; j++) {
          float b[4];
          *(float4*)b = *(const float4*)(tile_b + swizzled(first_n + j / 2 * 8 + lane % 4 * 2 + j % 2, step));
#pragma unroll
          for (int k = 0; k < 4; k++)
#pragma unroll
            for (int i = 0; i < kTilesM * 2; i++) {
              auto& sum = c[i / 2][j / 2][i % 2 * 2 + j % 2];
              sum = fmaf(a[i][k], b[k], sum);
            }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTilesM * kTilesN * 4; i++) sums[i] = c[i / 4 / kTilesN][i / 4 % kTilesN][i % 4];
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, mask);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, mask));
  return value;
}

// A warp's row: moments[0] = mean (0 unless Centered), moments[1] = 1 / sqrt(mean square of x - mean + epsilon).
template <bool Centered>
__device__ __forceinline__ void row_moments(float* moments, const float* x, int columns, float epsilon) {
  const int lane = threadIdx.x % kWarp;
  float mean = 0, squares = 0;
  if (Centered) {
    for (int i = lane; i < columns; i += kWarp) mean += x[i];
    mean = warp_sum(mean) / columns;
  }
  for (int i = lane; i < columns; i += kWarp) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  moments[0] = mean;
  moments[1] = 1.0f / sqrtf(warp_sum(squares) / columns + epsilon);
}

// A warp's row: y = softmax(x), or its logarithm.
template <bool Log>
__device__ __forceinline__ void row_softmax(float* y, const float* x, int columns) {
  const int lane = threadIdx.x % kWarp;
  float highest = -INFINITY, total = 0;
  for (int i = lane; i < columns; i += kWarp) highest = fmaxf(highest, x[i]);
  highest = warp_max(highest);
  for (int i = lane; i < columns; i += kWarp) total += expf(x[i] - highest);
  total = warp_sum(total);
  const float shift = Log ? highest + logf(total) : highest;
  for (int i = lane; i < columns; i += kWarp) y[i] = Log ? x[i] - shift : expf(x[i] - shift) / total;
}

enum MaskKind { kNoMask, kAddMask, kHideMask };

// A warp's query: out[i] is element lane + 32 i of softmax(scale * q k^T + mask) v over the first `keys` keys, whose rows
// lie `k_pitch` and `v_pitch` elements apart. A mask is added, or `hidden` is the score where it is false; `mask_step` is 0
// if all keys share one element. The scores of 32 keys at a time, weighed by a running maximum and sum (Milakov and
// Gimelshein 2018); a query that sees no key becomes NaN.
template <MaskKind Kind, int Size, int ValueSize, class Mask>
__device__ __forceinline__ void attend(float* out, const float* q, const float* k, const float* v, const Mask* mask,
                                       long long k_pitch, long long v_pitch, int mask_step, int keys, float scale,
                                       float hidden) {
  constexpr int kParts = (ValueSize + kWarp - 1) / kWarp;
  const int lane = threadIdx.x % kWarp;
  float highest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < kParts; i++) out[i] = 0;
  for (int first = 0; first < keys; first += kWarp) {
    const int key = first + lane, count = min(kWarp, keys - first);
    float score = -INFINITY;
    if (key < keys) {
      const float* row = k + key * k_pitch;
      score = 0;
#pragma unroll 8
      for (int d = 0; d < Size; d++) score = fmaf(q[d], row[d], score);
      score *= scale;
      if constexpr (Kind == kAddMask) score += mask[(long long)key * mask_step];
      if constexpr (Kind == kHideMask) score = mask[(long long)key * mask_step] ? score : hidden;
    }
    const float higher = fmaxf(highest, warp_max(score));
    if (higher == -INFINITY) continue;
    const float weight = expf(score - higher), before = expf(highest - higher);
    highest = higher;
    total = fmaf(total, before, warp_sum(weight));
#pragma unroll
    for (int i = 0; i < kParts; i++) out[i] *= before;
    for (int j = 0; j < count; j++) {
      const float share = __shfl_sync(0xFFFFFFFFu, weight, j);
      const float* row = v + (first + j) * v_pitch;
#pragma unroll
      for (int i = 0; i < kParts; i++)
        if (lane + i * kWarp < ValueSize) out[i] = fmaf(share, row[lane + i * kWarp], out[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kParts; i++) out[i] /= total;
}

}  // namespace optc
