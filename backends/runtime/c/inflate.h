/* Decompresses what zip calls method 8 (RFC 1951). Part of the loader. */
#ifndef OPTC_INFLATE_H
#define OPTC_INFLATE_H
#include <stddef.h>

/* Inflates `bytes` at `from` into exactly `capacity` bytes at `to`. 0, or -1 if the data are damaged, yield another
 * number of bytes, or memory ran out; reads and writes nothing beyond either end. */
int optc_inflate(const unsigned char* from, size_t bytes, unsigned char* to, size_t capacity);

#endif
