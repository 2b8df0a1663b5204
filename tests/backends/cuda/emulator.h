// Runs CUDA C kernels on the CPU, for tests: one OS thread, a fiber for each CUDA thread, blocks one after another.
//
// Within a block the order in which threads run is random (OPTC_EMULATOR_SEED), and again after every barrier, so that a
// kernel that lacks one computes something else from seed to seed. Shared memory is filled with a NaN pattern before
// each block. Threads that reach different barriers, or of which some have left, stop the program with a message.
#pragma once
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>

#define OPTC_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after another
#define __restrict__

struct Index { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };

namespace emu {

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kWarp = 32, kMaxThreads = 1024;

struct Barrier { unsigned arrived = 0, generation = 0; };

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  Index index{};
  unsigned linear = 0;
  bool done = false;
  const Barrier* waiting = nullptr;
};

inline Fiber fibers[kMaxThreads];
inline Fiber* current;
inline void* scheduler_stack;
inline Index block_index;
inline dim3 block_dim, grid_dim;
inline unsigned threads, alive, warp_alive[kMaxThreads / kWarp];
inline Barrier block_barrier, warp_barrier[kMaxThreads / kWarp];
inline uint32_t exchange[kMaxThreads / kWarp][kWarp][16];
inline void (*entry)(void**);
inline void** entry_arguments;
inline std::mt19937 random_numbers;
alignas(128) inline char dynamic_shared[227 << 10];

extern "C" void optc_emulator_swap(void** from, void* to);
asm(".text\n.globl optc_emulator_swap\noptc_emulator_swap:\n"
    "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp,(%rdi); mov %rsi,%rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n");

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s (block %u,%u,%u thread %u)\n", what, block_index.x, block_index.y,
               block_index.z, current ? current->linear : 0);
  std::abort();
}

// A kernel that touches memory it must not: says which and where, then ends the process.
inline const char* kernel_name = "";
inline void on_fault(int, siginfo_t* info, void*) {
  char text[256];
  const int size = std::snprintf(text, sizeof text, "CUDA emulation: %s touches %p (block %u,%u,%u thread %u)\n", kernel_name,
                                 info->si_addr, block_index.x, block_index.y, block_index.z, current ? current->linear : 0);
  (void)!write(2, text, size);
  _exit(139);
}
inline void watch_faults() {
  static char stack[64 << 10];
  const stack_t own = {stack, 0, sizeof stack};
  sigaltstack(&own, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

inline void yield() { optc_emulator_swap(&current->stack_pointer, scheduler_stack); }

// Waits until `count` threads have come.
inline void arrive(Barrier& barrier, const unsigned& count) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived >= count) {
    barrier.arrived = 0;
    barrier.generation++;
    yield();  // let the order change
    return;
  }
  while (barrier.generation == generation) {
    current->waiting = &barrier;
    yield();
  }
  current->waiting = nullptr;
}

inline unsigned lane() { return current->linear % kWarp; }
inline unsigned warp() { return current->linear / kWarp; }
inline void sync_block() { arrive(block_barrier, alive); }
inline void sync_warp() { arrive(warp_barrier[warp()], warp_alive[warp()]); }

inline void leave() {
  current->done = true;
  alive--;
  warp_alive[warp()]--;
  // Those who wait for all threads that are left may be complete now.
  auto complete = [](Barrier& barrier, unsigned count) {
    if (count && barrier.arrived >= count) barrier.arrived = 0, barrier.generation++;
  };
  complete(block_barrier, alive);
  complete(warp_barrier[warp()], warp_alive[warp()]);
}

inline void trampoline() {
  entry(entry_arguments);
  leave();
  yield();
  std::abort();
}

inline void start(Fiber& fiber, unsigned linear) {
  if (!fiber.stack) fiber.stack = static_cast<char*>(std::aligned_alloc(4096, kStackBytes));
  fiber.linear = linear;
  fiber.done = false;
  fiber.waiting = nullptr;
  fiber.index = {linear % block_dim.x, linear / block_dim.x % block_dim.y, linear / block_dim.x / block_dim.y};
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(trampoline);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
}

inline void run_block() {
  static std::vector<unsigned> order;
  alive = threads;
  block_barrier = Barrier();
  for (unsigned w = 0; w * kWarp < threads; w++) {
    warp_barrier[w] = Barrier();
    warp_alive[w] = std::min(kWarp, threads - w * kWarp);
  }
  std::memset(dynamic_shared, 0xFF, sizeof dynamic_shared);
  for (unsigned t = 0; t < threads; t++) start(fibers[t], t);
  order.resize(threads);
  std::iota(order.begin(), order.end(), 0u);
  while (alive) {
    std::shuffle(order.begin(), order.end(), random_numbers);
    bool moved = false;
    for (unsigned t : order) {
      Fiber& fiber = fibers[t];
      if (fiber.done) continue;
      const unsigned before = alive;
      const Barrier* waited = fiber.waiting;
      const unsigned arrived = waited ? waited->arrived : 0, generation = waited ? waited->generation : 0;
      current = &fiber;
      optc_emulator_swap(&scheduler_stack, fiber.stack_pointer);
      moved |= alive != before || fiber.waiting != waited || !waited || waited->arrived != arrived ||
               waited->generation != generation;
    }
    if (!moved && alive) fail("threads wait for a barrier that others never reach");
  }
}

inline void launch(void (*function)(void**), void** arguments, dim3 grid, dim3 block) {
  watch_faults();
  entry = function;
  entry_arguments = arguments;
  grid_dim = grid;
  block_dim = block;
  threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads) fail("a block of no or of more than 1024 threads");
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block_index = {x, y, z};
        run_block();
      }
}

// Every lane of a warp shows up to 16 words; then `read` may look at those of all lanes.
template <class F>
inline void collective(const uint32_t* words, unsigned count, F read) {
  const unsigned w = warp();
  std::copy(words, words + count, exchange[w][lane()]);
  sync_warp();
  read(exchange[w]);
  sync_warp();
}

template <class T>
inline T from_lane(T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  uint32_t words[2] = {0, 0};
  std::memcpy(words, &value, sizeof(T));
  T out;
  collective(words, 2, [&](uint32_t(*all)[16]) { std::memcpy(&out, all[source % kWarp], sizeof(T)); });
  return out;
}

}  // namespace emu

#define threadIdx (emu::current->index)
#define blockIdx emu::block_index
#define blockDim emu::block_dim
#define gridDim emu::grid_dim
#define __syncthreads() emu::sync_block()
#define __syncwarp(...) emu::sync_warp()
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF double(INFINITY)
#define CUDART_NAN double(NAN)

template <class T>
T __shfl_sync(unsigned, T value, int source, int width = 32) {
  return emu::from_lane(value, (emu::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  (void)width;
  return emu::from_lane(value, emu::lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by, int width = 32) {
  const int lane = emu::lane();
  return emu::from_lane(value, (lane & (width - 1)) + by < width ? lane + by : lane);
}

inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyintf(x)); }
template <class To, class From>
To same_bits(From value) {
  To out;
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&out, &value, sizeof(To));
  return out;
}
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
namespace optc {

// Copies happen at the wait that must come before their use: a kernel that does not wait reads what was there before.
struct Copy { void* to; const void* from; unsigned group; };
inline std::vector<Copy> copies[emu::kMaxThreads];
inline unsigned groups[emu::kMaxThreads];

inline void copy_async(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16) emu::fail("cp.async of unaligned bytes");
  copies[emu::current->linear].push_back({shared, global, groups[emu::current->linear]});
}
inline void commit() { groups[emu::current->linear]++; }
template <int Pending>
void wait() {
  auto& mine = copies[emu::current->linear];
  const unsigned group = groups[emu::current->linear];
  auto rest = std::stable_partition(mine.begin(), mine.end(), [&](const Copy& c) { return c.group + Pending < group; });
  for (auto it = mine.begin(); it != rest; ++it) std::memcpy(it->to, it->from, 16);
  mine.erase(mine.begin(), rest);
}

// PTX ISA, "Warp-level matrix load instruction: ldmatrix": lane l gets elements 2 * (l % 4) and the next of row l / 4.
inline void ldmatrix(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emu::fail("ldmatrix of an unaligned row");
  uint32_t words[2];
  std::memcpy(words, &row, 8);
  emu::collective(words, 2, [&](uint32_t(*all)[16]) {
    for (unsigned matrix = 0; matrix < 4; matrix++) {
      const char* address;
      std::memcpy(&address, all[matrix * 8 + emu::lane() / 4], 8);
      std::memcpy(&r[matrix], address + emu::lane() % 4 * 4, 4);
    }
  });
}

// c[16][8] += a[16][..] * b[..][8] of four 32-bit words a row and half of k, as the fragments of m16n8k32 (bytes) and
// m16n8k8 (tf32) are laid out: a0, a1 hold rows l / 4 and l / 4 + 8 of the first half of k, a2, a3 of the second.
template <class Sum, class Dot>
void mma(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Dot dot) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  emu::collective(words, 6, [&](uint32_t(*all)[16]) {
    for (unsigned e = 0; e < 4; e++) {
      const unsigned row = emu::lane() / 4, column = emu::lane() % 4 * 2 + e % 2;
      for (unsigned k = 0; k < 8; k++)
        c[e] = dot(c[e], all[row * 4 + k % 4][e / 2 + k / 4 * 2], all[column * 4 + k % 4][4 + k / 4]);
    }
  });
}
inline void mma_u8s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  mma(c, a, b, [](int sum, uint32_t x, uint32_t y) {
    for (int i = 0; i < 4; i++) sum += static_cast<uint8_t>(x >> 8 * i) * static_cast<int8_t>(y >> 8 * i);
    return sum;
  });
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  mma(c, a, b, [](float sum, uint32_t x, uint32_t y) {
    if ((x | y) & 0x1FFF) emu::fail("tf32 operands that were not rounded");
    float p, q;
    std::memcpy(&p, &x, 4), std::memcpy(&q, &y, 4);
    return sum + p * q;
  });
}
inline uint32_t to_tf32(uint32_t bits) { return (bits + 0x1000) & ~0x1FFFu; }

}  // namespace optc

inline float __frcp_rn(float x) { return 1.0f / x; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using std::max;
using std::min;

#define EMU_VECTOR(N, T, A2, A4)                                      \
  struct alignas(A2) N##2 { T x, y; };                                \
  struct N##3 { T x, y, z; };                                         \
  struct alignas(A4) N##4 { T x, y, z, w; };                          \
  inline N##2 make_##N##2(T a, T b) { return {a, b}; }                \
  inline N##3 make_##N##3(T a, T b, T c) { return {a, b, c}; }        \
  inline N##4 make_##N##4(T a, T b, T c, T d) { return {a, b, c, d}; }
EMU_VECTOR(char, signed char, 2, 4)
EMU_VECTOR(uchar, unsigned char, 2, 4)
EMU_VECTOR(short, short, 4, 8)
EMU_VECTOR(ushort, unsigned short, 4, 8)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(uint, unsigned, 8, 16)
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(double, double, 16, 16)
EMU_VECTOR(longlong, long long, 16, 16)
#undef EMU_VECTOR
