#include "inflate.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BITS 15 /* of a Huffman code */
#define LITERALS 288
#define DISTANCES 32
#define END 256

/* A Huffman code as a table by the next MOST_BITS bits of input: symbol << 4 | bits of its code, 0 where there is none. */
typedef uint16_t codes[1 << MOST_BITS];

typedef struct stream {
  const unsigned char *at, *end;
  uint64_t bits; /* not taken yet, the next one lowest */
  int held, missing; /* how many there are; of them, how many lie beyond the end of the input */
  unsigned char *start, *to, *limit;
  codes literals, distances;
} stream;

/* The next `count` bits (32 at most) without taking them; zeros beyond the end. */
static uint32_t peek(stream* s, int count) {
  while (s->held < count) {
    if (s->at < s->end)
      s->bits |= (uint64_t)*s->at++ << s->held;
    else
      s->missing += 8;
    s->held += 8;
  }
  return (uint32_t)(s->bits & ((1ull << count) - 1));
}

static void drop(stream* s, int count) {
  s->bits >>= count;
  s->held -= count;
}

static uint32_t take(stream* s, int count) {
  uint32_t value = peek(s, count);
  drop(s, count);
  return value;
}

/* Whether more was taken than there was. */
static int ran_out(const stream* s) { return s->missing > s->held; }

/* Fills the table of the canonical code with these lengths (RFC 1951, 3.2.2). -1 if they are too short to be one. */
static int make_codes(const unsigned char* lengths, int count, uint16_t* table) {
  uint32_t used[MOST_BITS + 1] = {0}, next[MOST_BITS + 1], code = 0;
  for (int symbol = 0; symbol < count; symbol++) used[lengths[symbol]]++;
  for (int bits = 1; bits <= MOST_BITS; bits++) {
    next[bits] = code;
    code += used[bits];
    if (code > 1u << bits) return -1;
    code <<= 1;
  }
  memset(table, 0, sizeof(codes));
  for (int symbol = 0; symbol < count; symbol++) {
    int bits = lengths[symbol];
    if (!bits) continue;
    uint32_t reversed = 0, value = next[bits]++;
    for (int i = 0; i < bits; i++) reversed |= (value >> i & 1) << (bits - 1 - i);
    for (uint32_t at = reversed; at < 1u << MOST_BITS; at += 1u << bits) table[at] = (uint16_t)(symbol << 4 | bits);
  }
  return 0;
}

/* The next symbol, or -1. */
static int symbol(stream* s, const uint16_t* table) {
  uint16_t entry = table[peek(s, MOST_BITS)];
  drop(s, entry & 15);
  return entry ? entry >> 4 : -1;
}

/* The code lengths of a block, which are coded themselves (3.2.7). */
static int read_codes(stream* s) {
  static const unsigned char order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  unsigned char lengths[LITERALS + DISTANCES] = {0};
  int literals = (int)take(s, 5) + 257, distances = (int)take(s, 5) + 1, count = (int)take(s, 4) + 4;
  if (literals > LITERALS) return -1;
  for (int i = 0; i < count; i++) lengths[order[i]] = (unsigned char)take(s, 3);
  if (make_codes(lengths, 19, s->literals)) return -1;
  memset(lengths, 0, 19);
  for (int at = 0; at < literals + distances;) {
    int next = symbol(s, s->literals), repeat = 1, value = next;
    if (next < 0 || ran_out(s)) return -1;
    if (next >= 16) {
      if (next == 16 && at == 0) return -1;
      value = next == 16 ? lengths[at - 1] : 0;
      repeat = next == 16 ? 3 + (int)take(s, 2) : next == 17 ? 3 + (int)take(s, 3) : 11 + (int)take(s, 7);
    }
    if (repeat > literals + distances - at) return -1;
    while (repeat--) lengths[at++] = (unsigned char)value;
  }
  return make_codes(lengths, literals, s->literals) || make_codes(lengths + literals, distances, s->distances);
}

static int fixed_codes(stream* s) {
  unsigned char lengths[LITERALS];
  for (int i = 0; i < LITERALS; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
  if (make_codes(lengths, LITERALS, s->literals)) return -1;
  memset(lengths, 5, DISTANCES);
  return make_codes(lengths, DISTANCES, s->distances);
}

/* Literals and copies of what came before, up to the end of the block (3.2.5). */
static int coded_block(stream* s) {
  static const uint16_t lengths[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                       31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
  static const uint16_t distances[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                         193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
  for (;;) {
    int next = symbol(s, s->literals);
    if (next < 0 || ran_out(s)) return -1;
    if (next == END) return 0;
    if (next < END) {
      if (s->to == s->limit) return -1;
      *s->to++ = (unsigned char)next;
      continue;
    }
    next -= END + 1;
    if (next >= 29) return -1;
    size_t length = lengths[next] + take(s, next < 8 || next == 28 ? 0 : next / 4 - 1);
    int far = symbol(s, s->distances);
    if (far < 0 || far >= 30) return -1;
    size_t distance = distances[far] + take(s, far < 4 ? 0 : far / 2 - 1);
    if (distance > (size_t)(s->to - s->start) || length > (size_t)(s->limit - s->to)) return -1;
    for (; length; length--, s->to++) *s->to = s->to[-(ptrdiff_t)distance];
  }
}

/* Bytes as they are, from the next byte of input on (3.2.4). */
static int stored_block(stream* s) {
  drop(s, s->held & 7);
  uint32_t length = take(s, 16), inverted = take(s, 16);
  if ((length ^ inverted) != 0xffff) return -1;
  for (; length; length--) {
    if (s->to == s->limit || ran_out(s)) return -1;
    *s->to++ = (unsigned char)take(s, 8);
  }
  return 0;
}

static int blocks(stream* s) {
  for (int last = 0; !last;) {
    last = (int)take(s, 1);
    uint32_t kind = take(s, 2);
    int bad = kind == 0 ? stored_block(s) : kind == 1 ? fixed_codes(s) : kind == 2 ? read_codes(s) : -1;
    if (bad || (kind && coded_block(s)) || ran_out(s)) return -1;
  }
  return s->to == s->limit ? 0 : -1;
}

int optc_inflate(const unsigned char* from, size_t bytes, unsigned char* to, size_t capacity) {
  stream* s = malloc(sizeof *s);
  if (!s) return -1;
  s->at = from, s->end = from + bytes, s->bits = 0, s->held = s->missing = 0;
  s->start = s->to = to, s->limit = to + capacity;
  int status = blocks(s);
  free(s);
  return status;
}
