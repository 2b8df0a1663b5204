#define _GNU_SOURCE
#include "loader.h"
#include "inflate.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFLATED 8         /* zip's number of the compression */
#define MOST_INFLATED 1032 /* bytes that one deflated byte can hold */

typedef struct member {
  const unsigned char* data;
  uint64_t bytes;
  unsigned char* owned; /* data to free; NULL if they lie in the file */
} member;

static int fail(char* message, size_t capacity, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, capacity, format, arguments);
  va_end(arguments);
  return -1;
}

/* Little-endian numbers of 2, 4 and 8 bytes. */
static uint64_t number(const unsigned char* at, int bytes) {
  uint64_t value = 0;
  while (bytes--) value = value << 8 | at[bytes];
  return value;
}

/* Whether [at, at + bytes) lies in a file of `size` bytes, whatever the numbers are. */
static int inside(uint64_t at, uint64_t bytes, uint64_t size) { return at <= size && bytes <= size - at; }

/* CRC-32 as zip has it (ISO 3309), eight bytes a step (Kounavis and Berry, "slicing by 8"). */
static uint32_t crc32(const unsigned char* data, uint64_t bytes) {
  uint32_t table[8][256], crc = ~0u;
  for (uint32_t i = 0; i < 256; i++) {
    table[0][i] = i;
    for (int bit = 0; bit < 8; bit++) table[0][i] = table[0][i] >> 1 ^ (table[0][i] & 1 ? 0xedb88320u : 0);
  }
  for (int slice = 1; slice < 8; slice++)
    for (int i = 0; i < 256; i++)
      table[slice][i] = table[slice - 1][i] >> 8 ^ table[0][table[slice - 1][i] & 255];
  for (; bytes >= 8; data += 8, bytes -= 8) {
    uint64_t word = number(data, 8) ^ crc;
    crc = 0;
    for (int i = 0; i < 8; i++) crc ^= table[7 - i][word >> 8 * i & 255];
  }
  while (bytes--) crc = crc >> 8 ^ table[0][(crc ^ *data++) & 255];
  return ~crc;
}

/* Finds the end-of-central-directory record (APPNOTE.TXT 4.3.16); NULL if there is none. */
static const unsigned char* find_end(const unsigned char* zip, size_t bytes) {
  if (bytes < 22) return NULL;
  const unsigned char* last = zip + bytes - 22;
  for (const unsigned char* at = last; at >= zip && last - at <= 0xffff; at--)
    if (memcmp(at, "PK\5\6", 4) == 0 && number(at + 20, 2) == (uint64_t)(last - at)) return at;
  return NULL;
}

/* Reads the zip64 extra field of a central entry where the 32-bit fields are full (APPNOTE.TXT 4.5.3). */
static void read_zip64(const unsigned char* extra, uint64_t length, uint64_t* bytes, uint64_t* stored,
                       uint64_t* header) {
  for (uint64_t at = 0; at + 4 <= length; at += 4 + number(extra + at + 2, 2)) {
    uint64_t left = number(extra + at + 2, 2), from = at + 4;
    if (number(extra + at, 2) != 1 || from + left > length) continue;
    if (*bytes == 0xffffffffu && left >= 8) {
      *bytes = number(extra + from, 8);
      from += 8, left -= 8;
    }
    if (*stored == 0xffffffffu && left >= 8) {
      *stored = number(extra + from, 8);
      from += 8, left -= 8;
    }
    if (*header == 0xffffffffu && left >= 8) *header = number(extra + from, 8);
    return;
  }
}

/* The content of a member that takes `stored` bytes of the file from `data` on. 0, or -1 with the message set. */
static int read_member(const unsigned char* data, uint64_t stored, uint64_t bytes, uint64_t method, const char* name,
                       member* found, char* message, size_t capacity) {
  *found = (member){data, bytes, NULL};
  if (method == 0 && stored == bytes) return 0;
  if (method == DEFLATED && bytes / MOST_INFLATED <= stored) {
    found->data = found->owned = malloc(bytes + 1);
    if (!found->owned) return fail(message, capacity, "no memory for %s", name);
    if (optc_inflate(data, stored, found->owned, bytes) == 0) return 0;
    free(found->owned);
  }
  return fail(message, capacity, "the file is damaged: %s cannot be read", name);
}

/* Finds a member and checks its CRC. 0, or -1 with the message set. */
static int find_member(const optc_file* file, const char* name, member* found, char* message, size_t capacity) {
  const unsigned char* zip = file->mapping;
  uint64_t size = file->mapping_bytes;
  const unsigned char* end = find_end(zip, size);
  if (!end) return fail(message, capacity, "not an .optc file, or a truncated one");
  uint64_t count = number(end + 10, 2), at = number(end + 16, 4);
  if (at == 0xffffffffu && end - zip >= 20 && memcmp(end - 20, "PK\6\7", 4) == 0) {
    uint64_t record = number(end - 12, 8);
    if (inside(record, 56, size)) at = number(zip + record + 48, 8);
  }
  for (; count; count--) {
    if (!inside(at, 46, size) || memcmp(zip + at, "PK\1\2", 4) != 0) break;
    const unsigned char* entry = zip + at;
    uint64_t stored = number(entry + 20, 4), bytes = number(entry + 24, 4), header = number(entry + 42, 4);
    uint64_t name_length = number(entry + 28, 2), extra = number(entry + 30, 2), comment = number(entry + 32, 2);
    if (!inside(at, 46 + name_length + extra, size)) break;
    read_zip64(entry + 46 + name_length, extra, &bytes, &stored, &header);
    at += 46 + name_length + extra + comment;
    if (name_length != strlen(name) || memcmp(entry + 46, name, name_length) != 0) continue;
    if (!inside(header, 30, size)) break;
    uint64_t start = header + 30 + number(zip + header + 26, 2) + number(zip + header + 28, 2);
    if (!inside(start, stored, size)) break;
    if (read_member(zip + start, stored, bytes, number(entry + 10, 2), name, found, message, capacity)) return -1;
    if (crc32(found->data, bytes) == number(entry + 16, 4)) return 0;
    free(found->owned);
    return fail(message, capacity, "the file is damaged: %s has another checksum than stated", name);
  }
  return fail(message, capacity, "not an .optc file, or a damaged one: no member %s", name);
}

/* Loads the code from memory, so that it need not exist as a file. The memory file stays open: dlopen takes two
 * libraries of one path for the same, and the number of an open file is unique. */
static int load_code(member code, optc_file* file, char* message, size_t capacity) {
  char path[64];
  uint64_t written = 0;
  file->code = memfd_create("optc-code", MFD_CLOEXEC);
  if (file->code < 0) return fail(message, capacity, "memfd_create failed: %s", strerror(errno));
  while (written < code.bytes) {
    ssize_t count = write(file->code, code.data + written, code.bytes - written);
    if (count < 0 && errno != EINTR)
      return fail(message, capacity, "cannot write the code to memory: %s", strerror(errno));
    if (count > 0) written += (uint64_t)count;
  }
  snprintf(path, sizeof path, "/proc/self/fd/%d", file->code);
  file->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  return file->library ? 0 : fail(message, capacity, "the compiled code cannot be loaded: %s", dlerror());
}

static int fill_api(optc_file* file, char* message, size_t capacity) {
  const struct {
    const char* name;
    void* slot;
  } functions[] = {
      {"optc_info", &file->api.info}, {"optc_create", &file->api.create}, {"optc_destroy", &file->api.destroy},
      {"optc_run", &file->api.run}, {"optc_output_shapes", &file->api.output_shapes},
      {"optc_workspace_bytes", &file->api.workspace_bytes}, {"optc_num_threads", &file->api.num_threads},
      {"optc_profile", &file->api.profile}, {"optc_error", &file->api.error}, {"optc_free", &file->api.free},
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    void* found = dlsym(file->library, functions[i].name);
    if (!found) return fail(message, capacity, "the compiled code lacks %s", functions[i].name);
    memcpy(functions[i].slot, &found, sizeof found);
  }
  int32_t version = file->api.info()->abi_version;
  if (version != OPTC_ABI_VERSION)
    return fail(message, capacity, "the code has ABI %d, expected %d", version, OPTC_ABI_VERSION);
  return 0;
}

static int map_file(const char* path, optc_file* file, char* message, size_t capacity) {
  struct stat status;
  int handle = open(path, O_RDONLY | O_CLOEXEC);
  if (handle < 0) return fail(message, capacity, "cannot open: %s", strerror(errno));
  if (fstat(handle, &status) == 0 && status.st_size > 0) {
    void* mapping = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, handle, 0);
    if (mapping != MAP_FAILED) {
      file->mapping = mapping;
      file->mapping_bytes = (size_t)status.st_size;
    }
  }
  close(handle);
  return file->mapping ? 0 : fail(message, capacity, "cannot map the file, or it is empty");
}

/* The manifest and the weights, which stay. */
static int find_data(optc_file* file, char* message, size_t capacity) {
  member manifest, weights;
  if (find_member(file, "manifest.json", &manifest, message, capacity)) return -1;
  file->manifest = (const char*)manifest.data;
  file->manifest_bytes = (int64_t)manifest.bytes;
  file->owned_manifest = manifest.owned;
  if (find_member(file, "weights.bin", &weights, message, capacity)) return -1;
  file->weights = weights.data;
  file->weight_bytes = (int64_t)weights.bytes;
  if (!weights.owned) return 0;
  free(weights.owned); /* no alignment, and shared with nobody */
  return fail(message, capacity, "not an .optc file: its weights are compressed");
}

static int find_code(optc_file* file, char* message, size_t capacity) {
  member code;
  if (find_member(file, "code.so", &code, message, capacity)) return -1;
  int status = load_code(code, file, message, capacity);
  free(code.owned);
  return status ? status : fill_api(file, message, capacity);
}

int optc_open(const char* path, optc_file* file, char* message, size_t capacity) {
  *file = (optc_file){.code = -1};
  int status = map_file(path, file, message, capacity);
  if (!status) status = find_data(file, message, capacity);
  if (!status) status = find_code(file, message, capacity);
  if (status) optc_close(file);
  return status;
}

void optc_close(optc_file* file) {
  if (file->library) dlclose(file->library);
  if (file->code >= 0) close(file->code);
  free(file->owned_manifest);
  if (file->mapping) munmap(file->mapping, file->mapping_bytes);
  *file = (optc_file){.code = -1};
}
