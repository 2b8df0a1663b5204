/* Lays buffers out in one workspace: the largest first, each in the smallest gap that the buffers alive at the same
 * time leave (greedy by size, best fit: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
 * 2020, section 5.2). */
#include <stdlib.h>
#include "context.h"

typedef struct item {
  int64_t bytes, offset;
  int32_t index;
} item;

/* Larger first; equal sizes keep the program's order, so that a plan is deterministic. */
static int compare_items(const void* a, const void* b) {
  const item *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return (x->index > y->index) - (x->index < y->index);
}

static int overlap(optc_lifetime a, optc_lifetime b) { return a.first <= b.last && b.first <= a.last; }

/* The offset for a buffer of `bytes` among `placed` (sorted by offset). */
static int64_t best_fit(const item* placed, int32_t count, const optc_lifetime* lifetimes, optc_lifetime life,
                        int64_t bytes) {
  int64_t end = 0, best = -1, smallest = INT64_MAX;
  for (int32_t i = 0; i < count; i++) {
    if (!overlap(lifetimes[placed[i].index], life)) continue;
    int64_t gap = placed[i].offset - end;
    if (gap >= bytes && gap < smallest) {
      smallest = gap;
      best = end;
    }
    int64_t next = placed[i].offset + placed[i].bytes;
    if (next > end) end = next;
  }
  return best >= 0 ? best : end;
}

int64_t optc_plan(const optc_lifetime* lifetimes, const int64_t* bytes, int32_t count, int64_t* offsets) {
  if (count == 0) return 0;
  item* items = malloc(2 * (size_t)count * sizeof(item));
  if (!items) return -1;
  item* placed = items + count;
  int64_t total = 0;
  for (int32_t i = 0; i < count; i++) {
    if (bytes[i] < 0 || bytes[i] > INT64_MAX / 2) {
      free(items);
      return -1;
    }
    items[i] = (item){(bytes[i] + OPTC_ALIGNMENT - 1) / OPTC_ALIGNMENT * OPTC_ALIGNMENT, 0, i};
  }
  qsort(items, (size_t)count, sizeof(item), compare_items);
  for (int32_t i = 0; i < count; i++) {
    item it = items[i];
    it.offset = best_fit(placed, i, lifetimes, lifetimes[it.index], it.bytes);
    int32_t at = i;
    for (; at > 0 && placed[at - 1].offset > it.offset; at--) placed[at] = placed[at - 1];
    placed[at] = it;
    offsets[it.index] = it.offset;
    if (it.offset + it.bytes > total) total = it.offset + it.bytes;
  }
  free(items);
  return total;
}
