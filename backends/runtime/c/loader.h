/* Opens an .optc file without Python: for C and C++ hosts on Linux. See tools/runner for its use.
 *
 * The file is mapped, its members' CRC-32 are checked, the code is unpacked and loaded from memory and the weights are
 * used in place. Compile loader.c and inflate.c.
 * (The SHA-256 in the manifest guard against more than accidents; `optc.load` checks those.)
 */
#ifndef OPTC_LOADER_H
#define OPTC_LOADER_H
#include <stddef.h>
#include "optc.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct optc_api {
  const optc_model_info* (*info)(void);
  int32_t (*create)(const void*, int64_t, const optc_options*, optc_context**);
  void (*destroy)(optc_context*);
  int32_t (*run)(optc_context*, const optc_tensor*, optc_tensor*);
  int32_t (*output_shapes)(optc_context*, const optc_tensor*, optc_tensor*);
  int64_t (*workspace_bytes)(optc_context*, const optc_tensor*);
  int32_t (*num_threads)(const optc_context*);
  int32_t (*profile)(optc_context*, int32_t, int64_t*);
  const char* (*error)(const optc_context*);
  void (*free)(void*);
} optc_api;

typedef struct optc_file {
  optc_api api;
  const void* weights;            /* pass these two to api.create */
  int64_t weight_bytes;
  const char* manifest;           /* JSON, not terminated */
  int64_t manifest_bytes;
  void* mapping;                  /* private */
  size_t mapping_bytes;
  void* library;
  int code;                       /* the memory file that the library was loaded from */
  void* owned_manifest;
} optc_file;

/* Returns 0, or -1 with one line in `message`. */
int optc_open(const char* path, optc_file* file, char* message, size_t capacity);
/* Destroy all contexts first. */
void optc_close(optc_file* file);

#ifdef __cplusplus
}
#endif
#endif
