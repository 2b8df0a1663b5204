/* Weights that the file holds smaller than kernels want them: put in the kernels' order once, in memory that all
 * contexts over the same weights share. What the boxes leave out is zero. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "context.h"

#define PROGRAM (&optc_generated_program)

/* This header, then the data at OPTC_ALIGNMENT bytes from it. */
struct optc_unpacked {
  optc_unpacked* next;
  const char* weights;
  int64_t users;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static optc_unpacked* all;

#define COPY(type)                                                                                        \
  for (int64_t i = 0; i < axis.count; i++) ((type*)to)[i * axis.to] = ((const type*)from)[i * axis.from]; \
  break

/* One loop over elements, which lie at multiples of their size. */
static void copy_run(char* to, const char* from, optc_axis axis, int32_t itemsize) {
  if (axis.to == 1 && axis.from == 1) {
    memcpy(to, from, (size_t)axis.count * (size_t)itemsize);
    return;
  }
  switch (itemsize) {
    case 1: COPY(char);
    case 2: COPY(int16_t);
    case 4: COPY(int32_t);
    default: COPY(int64_t);
  }
}

static void copy(char* to, const char* from, const optc_axis* axes, int32_t rank, int32_t itemsize) {
  if (rank <= 1) {
    copy_run(to, from, rank ? *axes : (optc_axis){1, 1, 1}, itemsize);
    return;
  }
  for (int64_t i = 0; i < axes->count; i++)
    copy(to + i * axes->to * itemsize, from + i * axes->from * itemsize, axes + 1, rank - 1, itemsize);
}

static optc_unpacked* unpack(const char* weights) {
  size_t bytes = (size_t)PROGRAM->unpacked_bytes / OPTC_ALIGNMENT * OPTC_ALIGNMENT + 2 * OPTC_ALIGNMENT;
  optc_unpacked* made = aligned_alloc(OPTC_ALIGNMENT, bytes);
  if (!made) return NULL;
  memset(made, 0, bytes);
  for (int32_t i = 0; i < PROGRAM->num_boxes; i++) {
    const optc_box* box = &PROGRAM->boxes[i];
    char* to = (char*)made + OPTC_ALIGNMENT + box->to;
    copy(to, weights + box->from, PROGRAM->axes + box->axis, box->rank, box->itemsize);
  }
  made->weights = weights;
  return made;
}

const char* optc_unpacked_data(const optc_unpacked* unpacked) { return (const char*)unpacked + OPTC_ALIGNMENT; }

optc_unpacked* optc_unpack(const char* weights) {
  pthread_mutex_lock(&lock);
  optc_unpacked* found = all;
  while (found && found->weights != weights) found = found->next;
  if (!found && (found = unpack(weights))) {
    found->next = all;
    all = found;
  }
  if (found) found->users++;
  pthread_mutex_unlock(&lock);
  return found;
}

void optc_unpack_release(optc_unpacked* unpacked) {
  if (!unpacked) return;
  pthread_mutex_lock(&lock);
  if (--unpacked->users == 0) {
    optc_unpacked** link = &all;
    while (*link != unpacked) link = &(*link)->next;
    *link = unpacked->next;
    free(unpacked);
  }
  pthread_mutex_unlock(&lock);
}
