/* Parallel launch for the kernels that jit.py loads: a pool of threads that spin between calls and, when a while has
   gone without one, look every millisecond. One library a pool; one caller at a time. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct {
  void *sync_handle;
  int32_t num_task;
} Environment;
typedef int (*Task)(int id, Environment *environment, void *data);

enum { MAX_THREADS = 64, SPINS = 1 << 20 };
static int32_t num_threads = 1;
static Task current_task;
static void *current_data;
static atomic_uint generation, running;

static void *work(void *id) {
  Environment environment = {NULL, num_threads};
  for (unsigned seen = 0;;) {
    unsigned now;
    for (int spins = 0; (now = atomic_load_explicit(&generation, memory_order_acquire)) == seen; spins++) {
      if (spins < SPINS) {
        __builtin_ia32_pause();
      } else {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        spins = SPINS;
      }
    }
    seen = now;
    current_task((int)(intptr_t)id, &environment, current_data);
    atomic_fetch_sub_explicit(&running, 1, memory_order_release);
  }
  return NULL;
}

/* What goes into the launch slot of a library of kernels. */
int jit_launch(Task task, void *data, int num_task) {
  (void)num_task;
  Environment environment = {NULL, num_threads};
  current_task = task, current_data = data;
  atomic_store_explicit(&running, (unsigned)num_threads - 1, memory_order_relaxed);
  if (num_threads > 1) atomic_fetch_add_explicit(&generation, 1, memory_order_release);
  int status = task(0, &environment, data);
  while (atomic_load_explicit(&running, memory_order_acquire)) __builtin_ia32_pause();
  return status;
}

/* Starts the threads; to be called once. */
void jit_start(int32_t threads) {
  num_threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
  for (intptr_t id = 1; id < num_threads; id++) {
    pthread_t thread;
    pthread_create(&thread, NULL, work, (void *)id);
    pthread_detach(thread);
  }
}

/* Asks for the tile registers, which are off at first (Linux Documentation/arch/x86/xstate.rst); true if granted. */
int jit_request_amx(void) {
#ifdef __x86_64__
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return 0;
#endif
}
