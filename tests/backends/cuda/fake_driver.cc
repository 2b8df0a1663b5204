// A CUDA driver library without a GPU, for tests: memory is the host's, and kernels are those of the library that
// OPTC_EMULATED_KERNELS names (CUDA C compiled with emulator.h). Only what backends/runtime/c/cuda.c calls exists here.
//
// Every allocation ends at a page that must not be touched: a kernel that reads or writes beyond it crashes. Calls in an
// order that a driver would refuse give the driver's errors.
#include <dlfcn.h>
#include <sys/mman.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {
enum { kOk = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kInvalidContext = 201, kNotFound = 500, kInvalidImage = 200 };
constexpr size_t kPage = 4096, kAlignment = 256;

struct Region { void* base; size_t bytes; };
std::mutex lock;
std::map<uint64_t, Region> allocations;
int initialized = 0;
int primary_users = 0;
thread_local void* current = nullptr;
char primary;
using Launch = void (*)(void**, const unsigned*, unsigned);

int ready() { return !initialized ? kNotInitialized : !current ? kInvalidContext : kOk; }
}  // namespace

extern "C" {

int cuInit(unsigned flags) { return flags ? kInvalidValue : (initialized = 1, kOk); }

int cuDeviceGet(int* device, int ordinal) { return ordinal ? 101 : (*device = 0, initialized ? kOk : kNotInitialized); }

int cuDevicePrimaryCtxRetain(void** context, int) { return primary_users++, *context = &primary, kOk; }

int cuDevicePrimaryCtxRelease_v2(int) { return primary_users-- > 0 ? kOk : kInvalidContext; }

int cuCtxSetCurrent(void* context) { return current = context, kOk; }

int cuModuleLoadData(void** module, const void* image) {
  if (int error = ready()) return error;
  uint32_t magic;
  std::memcpy(&magic, image, 4);
  if (magic != 0xBA55ED50u && std::memcmp(image, "//", 2) != 0) return kInvalidImage;  // a fat binary, or PTX
  const char* path = std::getenv("OPTC_EMULATED_KERNELS");
  *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!*module) std::fprintf(stderr, "fake driver: OPTC_EMULATED_KERNELS: %s\n", path ? dlerror() : "not set");
  return *module ? kOk : kInvalidImage;
}

int cuModuleUnload(void* module) { return dlclose(module) ? kInvalidValue : kOk; }

int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = dlsym(module, (std::string(name) + "_launch").c_str());
  return *function ? kOk : kNotFound;
}

int cuFuncSetAttribute(void*, int, int value) { return value > 227 << 10 ? kInvalidValue : kOk; }

int cuMemAllocManaged(unsigned long long* pointer, size_t bytes, unsigned) {
  if (int error = ready()) return error;
  if (!bytes) return kInvalidValue;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t pages = (rounded + kPage - 1) / kPage * kPage;
  void* base = mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return kOutOfMemory;
  mprotect(static_cast<char*>(base) + pages, kPage, PROT_NONE);
  char* data = static_cast<char*>(base) + (pages - rounded);
  std::memset(data, 0xFF, rounded);  // NaN as float: nothing may read what it did not write
  *pointer = reinterpret_cast<uintptr_t>(data);
  std::lock_guard<std::mutex> guard(lock);
  allocations[*pointer] = {base, pages + kPage};
  return kOk;
}

int cuMemFree_v2(unsigned long long pointer) {
  std::lock_guard<std::mutex> guard(lock);
  auto found = allocations.find(pointer);
  if (found == allocations.end()) return kInvalidValue;
  munmap(found->second.base, found->second.bytes);
  allocations.erase(found);
  return kOk;
}

int cuStreamCreate(void** stream, unsigned) { return *stream = std::malloc(1), ready(); }
int cuStreamDestroy_v2(void* stream) { return std::free(stream), kOk; }
int cuStreamSynchronize(void*) { return ready(); }

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void*, void** arguments, void**) {
  if (int error = ready()) return error;
  if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || bz > 64) return kInvalidValue;
  const unsigned dims[] = {gx, gy, gz, bx, by, bz};
  reinterpret_cast<Launch>(function)(arguments, dims, shared);
  return kOk;
}

int cuGetErrorName(int error, const char** name) {
  static const std::map<int, const char*> names = {{kInvalidValue, "CUDA_ERROR_INVALID_VALUE"}, {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"}, {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED"}, {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"}, {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"}, {kNotFound, "CUDA_ERROR_NOT_FOUND"}};
  auto found = names.find(error);
  *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
  return kOk;
}

/* Allocations that are still there: 0 after everything was closed. */
int optc_fake_driver_allocations() { return static_cast<int>(allocations.size()); }
}
