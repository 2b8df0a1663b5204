/* Runs a model on ONNX Runtime's C library, for counting its instructions: ort_host LIBRARY MODEL.onnx INPUTS RUNS
 *
 * INPUTS holds, for each input of the model in order: dtype and rank (int32), shape (int64 each), bytes (int64), data.
 * OrtApi is a table of functions that only grows (onnxruntime_c_api.h): those used here are given by their places. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum place {
  GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
  SET_OPTIMIZATION_LEVEL = 23, SET_INTRA_OP_THREADS = 24, SET_INTER_OP_THREADS = 25, INPUT_COUNT = 30,
  OUTPUT_COUNT = 31, INPUT_NAME = 36, OUTPUT_NAME = 37, CREATE_TENSOR = 49, CREATE_CPU_MEMORY_INFO = 69,
  DEFAULT_ALLOCATOR = 78, RELEASE_VALUE = 96
};
enum { API_VERSION = 10, MAX_VALUES = 32, ALL_OPTIMIZATIONS = 99, LOG_ERRORS = 3 };

typedef struct api_base {
  void* const* (*get_api)(uint32_t version);
} api_base;

static void* const* api;

static void check(void* status) {
  if (!status) return;
  fprintf(stderr, "%s\n", ((const char* (*)(void*))api[GET_ERROR_MESSAGE])(status));
  exit(1);
}
/* A call of the function at `place` with the arguments' types in parentheses. */
#define CALL(place, types, ...) check(((void* (*)types)api[place])(__VA_ARGS__))

static void get(FILE* file, void* to, size_t bytes) {
  if (fread(to, 1, bytes, file) != bytes) {
    fprintf(stderr, "the inputs end too early\n");
    exit(1);
  }
}

static void* read_input(FILE* file, void* memory) {
  int32_t kind[2];
  int64_t shape[8], bytes;
  void *data, *value;
  get(file, kind, sizeof kind);
  get(file, shape, (size_t)kind[1] * sizeof *shape);
  get(file, &bytes, sizeof bytes);
  data = malloc((size_t)bytes + 1);
  get(file, data, (size_t)bytes);
  CALL(CREATE_TENSOR, (void*, void*, size_t, const int64_t*, size_t, int, void**), memory, data, (size_t)bytes, shape,
       (size_t)kind[1], kind[0], &value);
  return value;
}

int main(int count, char** arguments) {
  if (count != 5) return 2;
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  api = ((const api_base* (*)(void))dlsym(library, "OrtGetApiBase"))()->get_api(API_VERSION);
  void *env, *options, *session, *memory, *allocator;
  CALL(CREATE_ENV, (int, const char*, void**), LOG_ERRORS, "count", &env);
  CALL(CREATE_SESSION_OPTIONS, (void**), &options);
  CALL(SET_OPTIMIZATION_LEVEL, (void*, int), options, ALL_OPTIMIZATIONS);
  CALL(SET_INTRA_OP_THREADS, (void*, int), options, 1);
  CALL(SET_INTER_OP_THREADS, (void*, int), options, 1);
  CALL(CREATE_SESSION, (void*, const char*, void*, void**), env, arguments[2], options, &session);
  CALL(CREATE_CPU_MEMORY_INFO, (int, int, void**), 0, 0, &memory);
  CALL(DEFAULT_ALLOCATOR, (void**), &allocator);
  size_t num_inputs, num_outputs;
  CALL(INPUT_COUNT, (void*, size_t*), session, &num_inputs);
  CALL(OUTPUT_COUNT, (void*, size_t*), session, &num_outputs);
  const char *names[MAX_VALUES], *output_names[MAX_VALUES];
  void *inputs[MAX_VALUES], *outputs[MAX_VALUES];
  FILE* file = fopen(arguments[3], "rb");
  if (!file || num_inputs > MAX_VALUES || num_outputs > MAX_VALUES) return 1;
  for (size_t i = 0; i < num_inputs; i++) {
    CALL(INPUT_NAME, (void*, size_t, void*, const char**), session, i, allocator, &names[i]);
    inputs[i] = read_input(file, memory);
  }
  for (size_t i = 0; i < num_outputs; i++)
    CALL(OUTPUT_NAME, (void*, size_t, void*, const char**), session, i, allocator, &output_names[i]);
  for (int run = atoi(arguments[4]); run > 0; run--) {
    for (size_t i = 0; i < num_outputs; i++) outputs[i] = NULL;
    CALL(RUN, (void*, void*, const char* const*, void* const*, size_t, const char* const*, size_t, void**), session,
         NULL, names, inputs, num_inputs, output_names, num_outputs, outputs);
    for (size_t i = 0; i < num_outputs; i++) ((void (*)(void*))api[RELEASE_VALUE])(outputs[i]);
  }
  return 0;
}
