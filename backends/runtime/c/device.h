/* What the runtime asks of a device that runs kernels in memory of its own. Programs for CPUs have none. */
#ifndef OPTC_DEVICE_H
#define OPTC_DEVICE_H
#include "program.h"

struct optc_device {
  /* Opens the device for a context, loads the code, and moves the weights: sets *weights to the device's copy. */
  int32_t (*open)(optc_context*, const char** weights, int64_t bytes, void** state);
  void (*close)(void* state);
  /* Memory that the device and the host both see, 64-byte aligned; NULL with the error set. */
  void* (*alloc)(optc_context*, void* state, int64_t bytes);
  void (*release)(void* state, void* data);
  /* Waits until every kernel enqueued so far is done. */
  int32_t (*wait)(optc_context*, void* state);
};

/* The context whose run the calling thread is part of, and the device's own state of it. */
optc_context* optc_device_context(void);
void* optc_device_state(const optc_context*);

#endif
