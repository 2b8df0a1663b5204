/* Runs artifacts and single kernels for a client on the other side of stdin and stdout: see __init__.py. One process
 * serves many models, as starting an emulator takes longer than most of them.
 *
 * A request is a byte and its fields, an answer a status (int32, 0: done) followed by its fields or by a message:
 *   'L' path            -> int32 number of the artifact now open
 *   'R' number, tensors -> tensors          (int32 count, then each: dtype, rank, shape, bytes)
 *   'U' number          -> nothing          closes the artifact
 *   'D' path            -> int32 number of the shared library now loaded
 *   'C' number, name, buffers, dims -> buffers      (int32 count, then each: int64 size, bytes; dims: count, int64 each)
 * Text is an int32 length and its bytes; numbers are little-endian.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "loader.h"

enum { MAX_FILES = 64, MAX_TENSORS = 256, MAX_ARGUMENTS = 24, MESSAGE = 1024 };

typedef struct model {
  optc_file file;
  optc_context* context;
} model;

static model models[MAX_FILES];
static void* libraries[MAX_FILES];
static int32_t num_models, num_libraries;

static void get(void* to, size_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes) exit(0); /* the client is gone */
}
static void put(const void* from, size_t bytes) { fwrite(from, 1, bytes, stdout); }
static int32_t get_int(void) {
  int32_t value;
  get(&value, sizeof value);
  return value;
}
static void put_int(int32_t value) { put(&value, sizeof value); }
static void get_text(char* to, size_t capacity) {
  size_t length = (size_t)get_int();
  if (length >= capacity) exit(2);
  get(to, length);
  to[length] = '\0';
}
static void fail(int32_t status, const char* message) {
  put_int(status);
  put_int((int32_t)strlen(message));
  put(message, strlen(message));
}

/* Memory as a host would give it; not aligned to more than it must be, so that code that takes more for granted shows. */
static void* allocate(size_t bytes) {
  char* data = aligned_alloc(64, (bytes + 127) / 64 * 64);
  if (!data) exit(3);
  return data + 16;
}
static void release(void* data) {
  if (data) free((char*)data - 16);
}

static size_t bytes_of(const optc_tensor* t, int64_t itemsize) {
  for (int32_t i = 0; i < t->rank; i++) itemsize *= t->shape[i];
  return (size_t)itemsize;
}

static int64_t itemsize_of(int32_t dtype) {
  static const int8_t sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2};
  return sizes[dtype];
}

static void load(void) {
  char path[4096], message[MESSAGE];
  get_text(path, sizeof path);
  int32_t number = 0;
  while (number < num_models && models[number].context) number++;
  if (number == MAX_FILES) return fail(OPTC_RUNTIME, "too many artifacts are open");
  model* m = &models[number];
  if (optc_open(path, &m->file, message, sizeof message)) return fail(OPTC_RUNTIME, message);
  optc_options options = {1, NULL, NULL};
  int32_t status = m->file.api.create(m->file.weights, m->file.weight_bytes, &options, &m->context);
  if (status) {
    fail(status, m->file.api.error(NULL));
    m->context = NULL;
    return optc_close(&m->file);
  }
  if (number == num_models) num_models++;
  put_int(0);
  put_int(number);
}

static void unload(void) {
  model* m = &models[get_int()];
  m->file.api.destroy(m->context);
  m->context = NULL;
  optc_close(&m->file);
  put_int(0);
}

static void run(void) {
  model* m = &models[get_int()];
  const optc_api* api = &m->file.api;
  optc_tensor inputs[MAX_TENSORS] = {{0}}, outputs[MAX_TENSORS] = {{0}};
  int32_t count = get_int(), num_outputs = api->info()->num_outputs;
  for (int32_t i = 0; i < count; i++) {
    inputs[i].dtype = get_int();
    inputs[i].rank = get_int();
    get(inputs[i].shape, (size_t)inputs[i].rank * sizeof(int64_t));
    size_t bytes = bytes_of(&inputs[i], itemsize_of(inputs[i].dtype));
    get(inputs[i].data = allocate(bytes), bytes);
  }
  int32_t status = api->run(m->context, inputs, outputs);
  for (int32_t i = 0; i < count; i++) release(inputs[i].data);
  if (status) return fail(status, api->error(m->context));
  put_int(0);
  put_int(num_outputs);
  for (int32_t i = 0; i < num_outputs; i++) {
    put_int(outputs[i].dtype);
    put_int(outputs[i].rank);
    put(outputs[i].shape, (size_t)outputs[i].rank * sizeof(int64_t));
    put(outputs[i].data, bytes_of(&outputs[i], itemsize_of(outputs[i].dtype)));
    api->free(outputs[i].data);
  }
}

/* Parallel loops of kernels run one task after the other. */
typedef struct environment {
  void* sync;
  int32_t num_tasks;
} environment;
typedef int (*task)(int id, environment*, void* data);

static int launch(task run_task, void* data, int num_tasks) {
  (void)num_tasks;
  environment tasks = {NULL, 3};
  for (int id = tasks.num_tasks - 1; id >= 0; id--) {
    int status = run_task(id, &tasks, data);
    if (status) return status;
  }
  return 0;
}

static void load_library(void) {
  char path[4096];
  get_text(path, sizeof path);
  if (num_libraries == MAX_FILES) return fail(OPTC_RUNTIME, "too many libraries are loaded");
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(OPTC_RUNTIME, dlerror());
  void** slot = dlsym(library, "__TVMBackendParallelLaunch");
  if (slot) *slot = (void*)(intptr_t)launch;
  libraries[num_libraries] = library;
  put_int(0);
  put_int(num_libraries++);
}

/* Buffers and dims fill registers and stack alike on a 64-bit machine: one type of function will do for all. */
typedef int32_t (*kernel)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                          int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                          int64_t, int64_t, int64_t, int64_t);

static void call(void) {
  char name[256];
  void* library = libraries[get_int()];
  get_text(name, sizeof name);
  int64_t a[MAX_ARGUMENTS] = {0}, sizes[MAX_ARGUMENTS];
  int32_t buffers = get_int(), at = 0;
  for (; at < buffers; at++) {
    get(&sizes[at], sizeof(int64_t));
    void* data = allocate((size_t)sizes[at]);
    get(data, (size_t)sizes[at]);
    a[at] = (int64_t)(intptr_t)data;
  }
  int32_t dims = get_int();
  get(a + at, (size_t)dims * sizeof(int64_t));
  kernel function = (kernel)(intptr_t)dlsym(library, name);
  int32_t status = function ? function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12],
                                       a[13], a[14], a[15], a[16], a[17], a[18], a[19], a[20], a[21], a[22], a[23])
                            : -1;
  if (status) fail(OPTC_RUNTIME, function ? "the kernel failed" : "the library has no such kernel");
  else put_int(0), put_int(buffers);
  for (int32_t i = 0; i < buffers; i++) {
    if (!status) put(&sizes[i], sizeof(int64_t)), put((void*)(intptr_t)a[i], (size_t)sizes[i]);
    release((void*)(intptr_t)a[i]);
  }
}

int main(void) {
  for (int request; (request = getchar()) != EOF;) {
    switch (request) {
      case 'L': load(); break;
      case 'R': run(); break;
      case 'U': unload(); break;
      case 'D': load_library(); break;
      case 'C': call(); break;
      default: return 2;
    }
    fflush(stdout);
  }
  return 0;
}
