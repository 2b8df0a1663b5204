/* What the runtime's own files share. Not for generated code. */
#ifndef OPTC_CONTEXT_H
#define OPTC_CONTEXT_H
#include <pthread.h>
#include <stdatomic.h>
#include "device.h"
#include "program.h"

#define OPTC_ALIGNMENT 64

/* --- pool.c --- */
typedef struct optc_pool optc_pool;

optc_pool* optc_pool_create(int32_t threads, optc_context* context);   /* NULL if out of memory; starts no thread yet */
void optc_pool_destroy(optc_pool*);
/* While a run is on, idle workers spin for longer before they sleep. */
void optc_pool_set_busy(optc_pool*, int32_t busy);
int32_t optc_default_threads(void);
/* The context whose run the calling thread is part of; NULL outside a run. */
optc_context* optc_current(void);
/* Makes `context` current and returns what was. */
optc_context* optc_enter(optc_context* context);

/* --- features.c --- */
/* Returns 0 if the host has all of the space-separated features, else writes the missing ones to `missing`. */
int32_t optc_check_features(const char* required, char* missing, size_t capacity);

/* --- planner.c --- */
/* Gives each buffer an offset such that buffers alive in a common step do not overlap; returns the bytes needed, or -1
 * if memory ran out or a size is negative. All offsets are multiples of OPTC_ALIGNMENT. */
int64_t optc_plan(const optc_lifetime* lifetimes, const int64_t* bytes, int32_t count, int64_t* offsets);

/* --- unpack.c --- */
typedef struct optc_unpacked optc_unpacked;

/* The program's unpacked weights, shared by all who ask with the same `weights`; NULL if out of memory. */
optc_unpacked* optc_unpack(const char* weights);
void optc_unpack_release(optc_unpacked*);
const char* optc_unpacked_data(const optc_unpacked*);

/* --- runtime.c --- */
typedef struct optc_block optc_block;

struct optc_context {
  pthread_mutex_t lock;           /* one run at a time; others wait */
  const char* weights;
  optc_unpacked* unpacked;        /* NULL if the program needs none */
  optc_options options;
  optc_pool* pool;
  int32_t run_alone, alone;       /* the run, the step at hand: by the caller's thread, without the pool */
  void* device;                   /* the device's state; NULL for CPUs */

  int32_t bound;                  /* the fields below are right for `bound_inputs` */
  optc_tensor* bound_inputs;      /* dtype, rank and shape of the last inputs */
  int64_t* symbols;
  int64_t* new_symbols;
  int64_t* bytes;
  int64_t* offsets;
  char** buffers;
  char* workspace;
  int64_t planned, capacity;      /* bytes of the plan, and of the allocation */

  optc_tensor* output_types;      /* as output_shapes gave them for `symbols` */
  optc_tensor* outputs;           /* of the run under way */
  const optc_tensor* given;       /* the caller's */
  optc_tensor* staged;            /* the inputs where a device sees them; num_inputs */
  void** host_outputs;            /* where the outputs that a device wrote go at the end; num_outputs */

  optc_block* blocks;             /* optc_alloc's, of the run under way */
  int32_t profiling;
  int64_t* nanoseconds;           /* num_steps */

  atomic_flag guard;              /* of blocks, status and error: tasks may allocate and fail */
  int32_t status;
  char error[512];
};

#endif
