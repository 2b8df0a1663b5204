/* Which CPU features this host has, by LLVM's names, the operating system's support for their registers included. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "context.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Words of cpuid that hold feature bits. */
enum word { L1_ECX, L7_EBX, L7_ECX, L7_EDX, L71_EAX, L71_EDX, EXT_ECX, NUM_WORDS };
/* Register state that the OS must save: bits of XCR0. */
enum state { NONE = 0, AVX = 0x6, AVX512 = 0xe6, AMX = 0x60000 };

typedef struct feature {
  const char* name;
  enum word word;
  int bit;
  enum state state;
} feature;

/* Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E. */
static const feature features[] = {
    {"sse3", L1_ECX, 0, NONE}, {"pclmul", L1_ECX, 1, NONE}, {"ssse3", L1_ECX, 9, NONE}, {"fma", L1_ECX, 12, AVX},
    {"cx16", L1_ECX, 13, NONE}, {"sse4.1", L1_ECX, 19, NONE}, {"sse4.2", L1_ECX, 20, NONE},
    {"movbe", L1_ECX, 22, NONE}, {"popcnt", L1_ECX, 23, NONE}, {"aes", L1_ECX, 25, NONE}, {"avx", L1_ECX, 28, AVX},
    {"f16c", L1_ECX, 29, AVX},
    {"bmi", L7_EBX, 3, NONE}, {"avx2", L7_EBX, 5, AVX}, {"bmi2", L7_EBX, 8, NONE}, {"avx512f", L7_EBX, 16, AVX512},
    {"avx512dq", L7_EBX, 17, AVX512}, {"avx512ifma", L7_EBX, 21, AVX512}, {"avx512cd", L7_EBX, 28, AVX512},
    {"avx512bw", L7_EBX, 30, AVX512}, {"avx512vl", L7_EBX, 31, AVX512},
    {"avx512vbmi", L7_ECX, 1, AVX512}, {"avx512vbmi2", L7_ECX, 6, AVX512}, {"gfni", L7_ECX, 8, NONE},
    {"vaes", L7_ECX, 9, AVX}, {"vpclmulqdq", L7_ECX, 10, AVX}, {"avx512vnni", L7_ECX, 11, AVX512},
    {"avx512bitalg", L7_ECX, 12, AVX512}, {"avx512vpopcntdq", L7_ECX, 14, AVX512},
    {"amx-bf16", L7_EDX, 22, AMX}, {"avx512fp16", L7_EDX, 23, AVX512}, {"amx-tile", L7_EDX, 24, AMX},
    {"amx-int8", L7_EDX, 25, AMX},
    {"avxvnni", L71_EAX, 4, AVX}, {"avx512bf16", L71_EAX, 5, AVX512}, {"amx-fp16", L71_EAX, 21, AMX},
    {"avxifma", L71_EAX, 23, AVX}, {"avxvnniint8", L71_EDX, 4, AVX}, {"avxneconvert", L71_EDX, 5, AVX},
    {"avxvnniint16", L71_EDX, 10, AVX},
    {"lzcnt", EXT_ECX, 5, NONE},
};

/* Tile data is off until the process asks for it (Linux Documentation/arch/x86/xstate.rst). */
static int request_amx(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static void read_words(uint32_t words[NUM_WORDS], uint64_t* state) {
  uint32_t eax, ebx, ecx, edx;
  memset(words, 0, NUM_WORDS * sizeof(uint32_t));
  *state = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return;
  words[L1_ECX] = ecx;
  if (ecx & (1u << 27)) { /* OSXSAVE */
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    *state = (uint64_t)high << 32 | low;
  }
  if (__get_cpuid_count(7, 0, &eax, &words[L7_EBX], &words[L7_ECX], &words[L7_EDX]) && eax >= 1)
    __get_cpuid_count(7, 1, &words[L71_EAX], &ebx, &ecx, &words[L71_EDX]);
  __get_cpuid(0x80000001u, &eax, &ebx, &words[EXT_ECX], &edx);
}

static int has_feature(const char* name) {
  uint32_t words[NUM_WORDS];
  uint64_t state;
  read_words(words, &state);
  for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
    const feature* f = &features[i];
    if (strcmp(f->name, name) != 0) continue;
    if (!(words[f->word] >> f->bit & 1) || (state & f->state) != f->state) return 0;
    return f->state != AMX || request_amx();
  }
  return strcmp(name, "sse2") == 0 || strcmp(name, "64bit") == 0;
}

#elif defined(__aarch64__) || defined(__arm__)
#include <sys/auxv.h>

typedef struct feature {
  const char* name;
  unsigned long word;
  int bit;
} feature;

#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif

/* Linux arch/arm64/include/uapi/asm/hwcap.h and arch/arm/include/uapi/asm/hwcap.h. */
static const feature features[] = {
#if defined(__aarch64__)
    {"fp-armv8", AT_HWCAP, 0}, {"neon", AT_HWCAP, 1}, {"aes", AT_HWCAP, 3}, {"sha2", AT_HWCAP, 6},
    {"crc", AT_HWCAP, 7}, {"lse", AT_HWCAP, 8}, {"fullfp16", AT_HWCAP, 10}, {"fp16", AT_HWCAP, 10},
    {"rdm", AT_HWCAP, 12}, {"dotprod", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22}, {"fp16fml", AT_HWCAP, 23},
    {"sve2", AT_HWCAP2, 1}, {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14}, {"sme", AT_HWCAP2, 23},
#else
    {"neon", AT_HWCAP, 12}, {"vfp3", AT_HWCAP, 13}, {"vfp4", AT_HWCAP, 16}, {"fullfp16", AT_HWCAP, 23},
    {"fp16", AT_HWCAP, 23}, {"dotprod", AT_HWCAP, 24}, {"i8mm", AT_HWCAP, 27},
#endif
};

static int has_feature(const char* name) {
  for (size_t i = 0; i < sizeof features / sizeof *features; i++)
    if (strcmp(features[i].name, name) == 0) return getauxval(features[i].word) >> features[i].bit & 1;
  return 0;
}

#else
static int has_feature(const char* name) {
  (void)name;
  return 0;
}
#endif

int32_t optc_check_features(const char* required, char* missing, size_t capacity) {
  size_t used = 0;
  missing[0] = '\0';
  for (const char* at = required; *at;) {
    size_t length = strcspn(at, " ");
    char name[32];
    if (length > 0) {
      snprintf(name, sizeof name, "%.*s", (int)length, at);
      if (!has_feature(name) && used < capacity)
        used += (size_t)snprintf(missing + used, capacity - used, "%s%s", used ? " " : "", name);
    }
    at += length;
    at += strspn(at, " ");
  }
  return used != 0;
}
