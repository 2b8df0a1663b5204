#include "npy.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace {

struct Kind {
  int32_t dtype;
  const char* code;  // as in the header's 'descr'
  const char* name;
  int64_t bytes;
};

const Kind kKinds[] = {
    {OPTC_FLOAT32, "<f4", "float32", 4},     {OPTC_UINT8, "|u1", "uint8", 1},
    {OPTC_INT8, "|i1", "int8", 1},           {OPTC_UINT16, "<u2", "uint16", 2},
    {OPTC_INT16, "<i2", "int16", 2},         {OPTC_INT32, "<i4", "int32", 4},
    {OPTC_INT64, "<i8", "int64", 8},         {OPTC_BOOL, "|b1", "bool", 1},
    {OPTC_FLOAT16, "<f2", "float16", 2},     {OPTC_FLOAT64, "<f8", "float64", 8},
    {OPTC_UINT32, "<u4", "uint32", 4},       {OPTC_UINT64, "<u8", "uint64", 8},
    {OPTC_COMPLEX64, "<c8", "complex64", 8}, {OPTC_COMPLEX128, "<c16", "complex128", 16},
    {OPTC_BFLOAT16, "<u2", "bfloat16", 2},
};

const Kind* find_kind(int32_t dtype) {
  for (const Kind& kind : kKinds)
    if (kind.dtype == dtype) return &kind;
  return nullptr;
}

// The text after "'key':" in the header's dict.
std::string field(const std::string& header, const std::string& key, const std::string& path) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) throw std::runtime_error(path + ": no " + key + " in the .npy header");
  return header.substr(at + key.size() + 3);
}

}  // namespace

int64_t item_bytes(int32_t dtype) {
  const Kind* kind = find_kind(dtype);
  return kind ? kind->bytes : 0;
}

const char* dtype_name(int32_t dtype) {
  const Kind* kind = find_kind(dtype);
  return kind ? kind->name : "unknown";
}

Array read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot open");
  std::stringstream content;
  content << file.rdbuf();
  const std::string bytes = content.str();
  if (bytes.size() < 12 || bytes.compare(0, 6, "\x93NUMPY") != 0) throw std::runtime_error(path + ": not a .npy file");

  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(bytes[at])); };
  const bool wide = bytes[6] >= 2;  // versions 2 and 3 have a length of four bytes
  const size_t length = byte(8) | byte(9) << 8 | (wide ? byte(10) << 16 | byte(11) << 24 : 0);
  const size_t start = (wide ? 12 : 10) + length;
  if (start > bytes.size()) throw std::runtime_error(path + ": truncated");
  const std::string header = bytes.substr(wide ? 12 : 10, length);

  std::string code = field(header, "descr", path);
  const size_t quote = code.find('\'') + 1;
  code = code.substr(quote, code.find('\'', quote) - quote);
  Array array;
  const Kind* found = nullptr;
  for (const Kind& kind : kKinds)
    if (!found && code == kind.code) found = &kind;
  if (!found) throw std::runtime_error(path + ": dtype " + code + " is not supported");
  array.dtype = found->dtype;
  if (field(header, "fortran_order", path).compare(0, 5, " True") == 0)
    throw std::runtime_error(path + ": is in Fortran order; save np.ascontiguousarray(x)");

  std::string dims = field(header, "shape", path);
  dims = dims.substr(dims.find('(') + 1);
  std::stringstream numbers(dims.substr(0, dims.find(')')));
  size_t count = found->bytes;
  for (std::string dim; std::getline(numbers, dim, ',');) {
    if (dim.find_first_of("0123456789") == std::string::npos) continue;
    array.shape.push_back(std::stoll(dim));
    count *= static_cast<size_t>(array.shape.back());
  }
  if (bytes.size() - start < count) throw std::runtime_error(path + ": truncated");
  array.data.assign(bytes.begin() + start, bytes.begin() + start + count);
  return array;
}

void write_npy(const std::string& path, const optc_tensor& tensor) {
  const Kind* kind = find_kind(tensor.dtype);
  std::string header = std::string("{'descr': '") + kind->code + "', 'fortran_order': False, 'shape': (";
  int64_t bytes = kind->bytes;
  for (int32_t i = 0; i < tensor.rank; i++) {
    header += std::to_string(tensor.shape[i]) + ", ";
    bytes *= tensor.shape[i];
  }
  header += "), }";
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  const char prefix[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(header.size() & 255),
                         static_cast<char>(header.size() >> 8)};
  file.write(prefix, sizeof prefix);
  file << header;
  file.write(static_cast<const char*>(tensor.data), bytes);
  file.flush();
  if (!file) throw std::runtime_error(path + ": cannot write");
}
