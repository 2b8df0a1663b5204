/* The thread pool of a context: workers that spin for a short time, then sleep; the caller works too.
 *
 * One job at a time. `gate` counts the workers inside the job and is CLOSED (negative) when there is none. The caller
 * writes the job, opens the gate, works, closes the gate and waits for those who are inside; a worker that comes too
 * late finds the gate closed. So nobody ever waits for a worker that has not woken up, and a pool that could start
 * fewer threads than asked for, or none, still finishes every job.
 *
 * After fork() the child has none of the workers: the next job starts new ones. A context that was running in another
 * thread at the time of the fork must not be used in the child.
 */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "context.h"

#define CLOSED (-(1 << 30))
#define SPIN_IDLE_NS 50000    /* after a job, outside a run */
#define SPIN_BUSY_NS 300000   /* between the jobs of a run: waking a sleeper costs more than most serial steps */
#define SPIN_FINISH_NS 100000 /* the caller, for the last workers */
#define RUN_NS 150000         /* shorter runs are over before a worker that sleeps has come */
#define STEP_NS 40000         /* shorter steps gain less than handing them out and waiting for the last worker costs */

typedef int32_t (*task_fn)(int32_t, int32_t, void*);

struct optc_pool {
  optc_context* context;
  int32_t threads;                /* caller included */
  int32_t started;                /* workers */
  int32_t spins;                  /* 0 where there are fewer CPUs than threads: then spinning only steals time */
  unsigned generation;            /* of fork_generation when the workers started */
  pthread_t* workers;

  task_fn fn;                     /* the job; written while the gate is closed and nobody inside */
  void* argument;
  int32_t num_tasks;
  _Alignas(64) atomic_int next;   /* the first task nobody has taken */
  atomic_int status;              /* the first failure */
  _Alignas(64) atomic_int gate;
  atomic_uint epoch;              /* counts jobs: what idle workers watch */
  atomic_int busy, stop, sleepers, caller_sleeps;
  pthread_mutex_t mutex;
  pthread_cond_t wake, done;
};

static _Thread_local optc_context* current;
static _Thread_local int in_task;
static atomic_uint fork_generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

optc_context* optc_current(void) { return current; }

optc_context* optc_enter(optc_context* context) {
  optc_context* before = current;
  current = context;
  return before;
}

int64_t optc_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void count_fork(void) { atomic_fetch_add(&fork_generation, 1); }
static void watch_forks(void) { pthread_atfork(NULL, NULL, count_fork); }

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Takes tasks until none is left. After a failure the remaining ones are dropped. */
static void work(optc_pool* pool) {
  int32_t count = pool->num_tasks;
  in_task++;
  for (;;) {
    int32_t task = atomic_fetch_add(&pool->next, 1);
    if (task >= count) break;
    int32_t status = pool->fn(task, count, pool->argument);
    if (status) {
      int32_t none = 0;
      atomic_compare_exchange_strong(&pool->status, &none, status);
      atomic_store(&pool->next, count);
    }
  }
  in_task--;
}

/* Enters the job if there is one, works, and leaves. */
static void join_job(optc_pool* pool) {
  int inside = atomic_load(&pool->gate);
  do {
    if (inside < 0) return;
  } while (!atomic_compare_exchange_weak(&pool->gate, &inside, inside + 1));
  work(pool);
  if (atomic_fetch_sub(&pool->gate, 1) - 1 == CLOSED && atomic_load(&pool->caller_sleeps)) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
  }
}

/* Returns when the epoch is no longer `seen` or the pool stops. */
static void await_job(optc_pool* pool, unsigned seen) {
  if (pool->spins) {
    int64_t started = optc_now();
    for (;;) {
      for (int i = 0; i < 32; i++) {
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) != seen) return;
        pause_cpu();
      }
      if (atomic_load(&pool->stop)) return;
      int64_t limit = atomic_load_explicit(&pool->busy, memory_order_relaxed) ? SPIN_BUSY_NS : SPIN_IDLE_NS;
      if (optc_now() - started > limit) break;
    }
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->sleepers, 1);
  while (atomic_load(&pool->epoch) == seen && !atomic_load(&pool->stop)) pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->sleepers, 1);
  pthread_mutex_unlock(&pool->mutex);
}

static void* worker(void* argument) {
  optc_pool* pool = argument;
  current = pool->context;
  unsigned seen = 0;
  while (!atomic_load(&pool->stop)) {
    await_job(pool, seen);
    seen = atomic_load(&pool->epoch);
    join_job(pool);
  }
  return NULL;
}

/* Starts the workers, with all signals blocked so that Ctrl-C reaches the host's own threads. */
static void start(optc_pool* pool) {
  sigset_t all, before;
  pthread_once(&fork_once, watch_forks);
  pool->generation = atomic_load(&fork_generation);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->started < pool->threads - 1 &&
         pthread_create(&pool->workers[pool->started], NULL, worker, pool) == 0)
    pool->started++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (pool->started == 0) pool->threads = 1;
}

/* Puts mutex, conditions and counters into the state of a pool without workers. */
static void reset(optc_pool* pool) {
  pool->started = 0;
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_cond_init(&pool->done, NULL);
  atomic_store(&pool->gate, CLOSED);
  atomic_store(&pool->epoch, 0);
  atomic_store(&pool->sleepers, 0);
  atomic_store(&pool->caller_sleeps, 0);
}

static int forked(const optc_pool* pool) {
  return pool->started > 0 && pool->generation != atomic_load_explicit(&fork_generation, memory_order_relaxed);
}

optc_pool* optc_pool_create(int32_t threads, optc_context* context) {
  optc_pool* pool = aligned_alloc(64, (sizeof(optc_pool) + 63) / 64 * 64);
  if (!pool) return NULL;
  memset(pool, 0, sizeof *pool);
  pool->workers = calloc((size_t)threads, sizeof(pthread_t));
  if (!pool->workers) {
    free(pool);
    return NULL;
  }
  pool->context = context;
  pool->threads = threads;
  pool->spins = threads > 1 && threads <= optc_default_threads();
  reset(pool);
  return pool;
}

void optc_pool_destroy(optc_pool* pool) {
  if (!pool) return;
  if (!forked(pool)) {
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->workers[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
  }
  free(pool->workers);
  free(pool);
}

void optc_pool_set_busy(optc_pool* pool, int32_t busy) {
  atomic_store_explicit(&pool->busy, busy, memory_order_relaxed);
}

static int32_t run_serially(task_fn fn, void* argument, int32_t num_tasks) {
  for (int32_t task = 0; task < num_tasks; task++) {
    int32_t status = fn(task, num_tasks, argument);
    if (status) return status;
  }
  return OPTC_OK;
}

/* Waits until the closed gate has nobody inside. */
static void await_leavers(optc_pool* pool) {
  for (int64_t started = 0;;) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load_explicit(&pool->gate, memory_order_acquire) == CLOSED) return;
      pause_cpu();
    }
    if (started == 0) started = optc_now();
    if (!pool->spins || optc_now() - started > SPIN_FINISH_NS) break;
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->caller_sleeps, 1);
  while (atomic_load(&pool->gate) != CLOSED) pthread_cond_wait(&pool->done, &pool->mutex);
  atomic_store(&pool->caller_sleeps, 0);
  pthread_mutex_unlock(&pool->mutex);
}

int32_t optc_parallel(optc_context* context, int32_t (*fn)(int32_t, int32_t, void*), void* argument,
                      int32_t num_tasks) {
  optc_pool* pool = context ? context->pool : NULL;
  if (in_task || !pool || pool->threads == 1 || num_tasks == 1 || context->alone)
    return run_serially(fn, argument, num_tasks ? num_tasks : 1);
  if (forked(pool)) reset(pool);
  if (pool->started == 0) start(pool);

  pool->fn = fn;
  pool->argument = argument;
  pool->num_tasks = num_tasks ? num_tasks : pool->threads;
  atomic_store(&pool->status, OPTC_OK);
  atomic_store(&pool->next, 0);
  atomic_store(&pool->gate, 0);
  atomic_fetch_add(&pool->epoch, 1);
  if (atomic_load(&pool->sleepers)) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
  }
  work(pool);
  atomic_fetch_add(&pool->gate, CLOSED);
  await_leavers(pool);
  return atomic_load(&pool->status);
}

void optc_expect_run(optc_context* context, int64_t nanoseconds) {
  context->run_alone = context->alone = nanoseconds < RUN_NS;
}

void optc_expect(optc_context* context, int64_t nanoseconds) {
  context->alone = context->run_alone || nanoseconds < STEP_NS;
}

int32_t optc_num_threads(const optc_context* context) { return context->options.num_threads; }

/* --- TVM's hooks: T.parallel calls the first; kernels with large local buffers call the others --- */

typedef struct tvm_env {
  void* sync_handle;
  int32_t num_task;
} tvm_env;

typedef struct tvm_job {
  int (*lambda)(int, tvm_env*, void*);
  void* data;
} tvm_job;

static int32_t tvm_task(int32_t task, int32_t num_tasks, void* argument) {
  const tvm_job* job = argument;
  tvm_env env = {NULL, num_tasks};
  return job->lambda(task, &env, job->data) ? OPTC_RUNTIME : OPTC_OK;
}

/* A loop is cut finer than one task a thread, so that a thread that other processes hold up leaves its share to the
 * others. */
static int tvm_launch(int (*lambda)(int, tvm_env*, void*), void* data, int num_task) {
  tvm_job job = {lambda, data};
  int32_t threads = current && !current->alone ? current->options.num_threads : 1;
  if (num_task == 0 && threads > 1) num_task = 4 * threads;
  return optc_parallel(current, tvm_task, &job, num_task);
}

static void* tvm_alloc(int device_type, int device_id, uint64_t bytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  return aligned_alloc(OPTC_ALIGNMENT, (bytes + OPTC_ALIGNMENT) / OPTC_ALIGNMENT * OPTC_ALIGNMENT);
}

static int tvm_free(int device_type, int device_id, void* data) {
  (void)device_type, (void)device_id;
  free(data);
  return 0;
}

/* TVM's object files define these as weak, empty slots; the definitions here take their place at link time. */
int (*__TVMBackendParallelLaunch)(int (*)(int, tvm_env*, void*), void*, int) = tvm_launch;
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = tvm_alloc;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = tvm_free;

/* --- how many threads by default --- */

#if defined(__linux__)
static long read_number(const char* format, int cpu, long otherwise) {
  char path[96];
  long value = otherwise;
  snprintf(path, sizeof path, format, cpu);
  FILE* file = fopen(path, "r");
  if (!file) return otherwise;
  if (fscanf(file, "%ld", &value) != 1) value = otherwise;
  fclose(file);
  return value;
}

/* CPUs that a cgroup's quota (cpu.max: "quota period" in microseconds, or "max period") leaves, rounded up. */
static int32_t cgroup_limit(void) {
  long quota = 0, period = 0;
  FILE* file = fopen("/sys/fs/cgroup/cpu.max", "r");
  if (!file) return INT32_MAX;
  int found = fscanf(file, "%ld %ld", &quota, &period);
  fclose(file);
  return found == 2 && quota > 0 && period > 0 ? (int32_t)((quota + period - 1) / period) : INT32_MAX;
}

/* Physical cores among the CPUs this process may use: a CPU counts unless an earlier allowed one is its sibling. */
int32_t optc_default_threads(void) {
  cpu_set_t allowed;
  int32_t cores = 0;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    long first = read_number("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu, cpu);
    cores += first == cpu || first < 0 || first >= CPU_SETSIZE || !CPU_ISSET(first, &allowed);
  }
  int32_t limit = cgroup_limit();
  if (cores > limit) cores = limit;
  return cores > 0 ? cores : 1;
}
#else
int32_t optc_default_threads(void) {
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (int32_t)count : 1;
}
#endif
