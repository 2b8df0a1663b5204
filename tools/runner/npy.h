// Reading and writing NumPy's .npy files (format versions 1 to 3, little-endian, C order).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optc.h"

struct Array {
  int32_t dtype = OPTC_FLOAT32;
  std::vector<int64_t> shape;
  std::vector<char> data;
};

// Bytes of one element; 0 for a dtype that is not known.
int64_t item_bytes(int32_t dtype);
// The name as NumPy writes it, e.g. "float32".
const char* dtype_name(int32_t dtype);

// Both throw std::runtime_error with the file's name. bfloat16 is written as its bits, uint16, and read so too.
Array read_npy(const std::string& path);
void write_npy(const std::string& path, const optc_tensor& tensor);
