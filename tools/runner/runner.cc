// Runs an .optc file without Python: the shortest host program, and a check that an artifact stands on its own.
//
//   optc_runner MODEL.optc [--input NAME=FILE.npy]... [--output FOLDER] [--threads N] [--repeat N] [--dim NAME=SIZE]...
//
// Inputs that are not given are random, with symbolic dims of 1 unless --dim says otherwise. Exit codes as `optc run`:
// 0 done, 2 usage, 3 bad file or input, 5 wrong host, 1 anything else.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "loader.h"
#include "npy.h"

namespace {

struct Failure : std::runtime_error {
  Failure(int code, const std::string& message) : std::runtime_error(message), code(code) {}
  int code;
};

struct Options {
  std::string model, output;
  std::map<std::string, std::string> inputs;
  std::map<std::string, int64_t> dims;
  int threads = 0, repeat = 1;
};

std::pair<std::string, std::string> split(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == std::string::npos) throw Failure(2, "expected NAME=VALUE, found " + text);
  return {text.substr(0, at), text.substr(at + 1)};
}

int64_t to_number(const std::string& text, int64_t least) {
  try {
    size_t used = 0;
    const int64_t value = std::stoll(text, &used);
    if (used == text.size() && value >= least) return value;
  } catch (const std::logic_error&) {
    // reported below, like a number out of range
  }
  throw Failure(2, "expected a number of at least " + std::to_string(least) + ", found " + text);
}

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; i++) {
    const std::string name = arguments[i];
    if (name.rfind("--", 0) != 0) {
      if (!options.model.empty()) throw Failure(2, "more than one model given");
      options.model = name;
      continue;
    }
    if (i + 1 == count) throw Failure(2, name + " needs a value");
    const std::string value = arguments[++i];
    if (name == "--input") {
      options.inputs.insert(split(value));
    } else if (name == "--dim") {
      const auto [dim, size] = split(value);
      options.dims[dim] = to_number(size, 0);
    } else if (name == "--output") {
      options.output = value;
    } else if (name == "--threads") {
      options.threads = static_cast<int>(to_number(value, 1));
    } else if (name == "--repeat") {
      options.repeat = static_cast<int>(to_number(value, 1));
    } else {
      throw Failure(2, "unknown option " + name);
    }
  }
  if (options.model.empty())
    throw Failure(2, "usage: optc_runner MODEL.optc [--input NAME=FILE.npy]... [--output FOLDER] [--threads N] "
                     "[--repeat N] [--dim NAME=SIZE]...");
  return options;
}

// Floats in [0, 1), integers in [0, 4): small, so that they may serve as indices.
Array random_input(const optc_port& port, const Options& options) {
  static std::mt19937 generator(0);
  Array array;
  array.dtype = port.dtype;
  int64_t count = 1;
  for (int32_t i = 0; i < port.rank; i++) {
    const auto named = options.dims.find(port.dim_names[i]);
    const int64_t otherwise = named == options.dims.end() ? 1 : named->second;
    array.shape.push_back(port.shape[i] >= 0 ? port.shape[i] : otherwise);
    count *= array.shape.back();
  }
  array.data.resize(static_cast<size_t>(count * item_bytes(port.dtype)));
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int64_t i = 0; i < count; i++) {
    char* at = array.data.data() + i * item_bytes(port.dtype);
    if (port.dtype == OPTC_FLOAT32) {
      const float value = static_cast<float>(uniform(generator));
      std::memcpy(at, &value, sizeof value);
    } else if (port.dtype == OPTC_FLOAT64) {
      const double value = uniform(generator);
      std::memcpy(at, &value, sizeof value);
    } else if (port.dtype == OPTC_FLOAT16) {
      const uint16_t value = static_cast<uint16_t>(0x3800 + generator() % 0x400);  // [0.5, 1)
      std::memcpy(at, &value, sizeof value);
    } else if (port.dtype == OPTC_BFLOAT16) {
      const uint16_t value = static_cast<uint16_t>(0x3f00 + generator() % 0x80);  // [0.5, 1)
      std::memcpy(at, &value, sizeof value);
    } else if (port.dtype != OPTC_COMPLEX64 && port.dtype != OPTC_COMPLEX128) {
      *at = static_cast<char>(generator() % (port.dtype == OPTC_BOOL ? 2 : 4));  // the low byte: little-endian
    }
  }
  return array;
}

optc_tensor view(Array& array, const std::string& name) {
  if (array.shape.size() > OPTC_MAX_RANK) throw Failure(3, "input \"" + name + "\" has too many dims");
  optc_tensor tensor = {array.data.data(), array.dtype, static_cast<int32_t>(array.shape.size()), {}};
  std::copy(array.shape.begin(), array.shape.end(), tensor.shape);
  return tensor;
}

std::vector<Array> make_inputs(const optc_model_info& info, const Options& options) {
  std::vector<Array> arrays;
  std::map<std::string, std::string> unused = options.inputs;
  for (int32_t i = 0; i < info.num_inputs; i++) {
    const optc_port& port = info.inputs[i];
    const auto given = unused.find(port.name);
    if (given == unused.end()) {
      arrays.push_back(random_input(port, options));
      continue;
    }
    arrays.push_back(read_npy(given->second));
    if (port.dtype == OPTC_BFLOAT16 && arrays.back().dtype == OPTC_UINT16) arrays.back().dtype = OPTC_BFLOAT16;
    unused.erase(given);
  }
  if (!unused.empty()) throw Failure(2, "the model has no input \"" + unused.begin()->first + "\"");
  return arrays;
}

[[noreturn]] void fail(const optc_api& api, int32_t status, const optc_context* context) {
  throw Failure(status == OPTC_BAD_INPUT ? 3 : status == OPTC_BAD_HOST ? 5 : 1, api.error(context));
}

// File names must not leave the folder: "a/b" becomes "a_b".
std::string file_name(std::string name) {
  std::replace(name.begin(), name.end(), '/', '_');
  return name + ".npy";
}

void print_tensor(const char* name, const optc_tensor& tensor) {
  std::string shape;
  for (int32_t i = 0; i < tensor.rank; i++) shape += (i ? "," : "") + std::to_string(tensor.shape[i]);
  std::printf("%s: %s[%s]\n", name, dtype_name(tensor.dtype), shape.c_str());
}

void run(const Options& options) {
  char message[512];
  optc_file file;
  if (optc_open(options.model.c_str(), &file, message, sizeof message)) throw Failure(3, options.model + ": " + message);
  const std::unique_ptr<optc_file, decltype(&optc_close)> closer(&file, optc_close);
  const optc_api& api = file.api;
  const optc_model_info& info = *api.info();

  optc_options settings = {options.threads, nullptr, nullptr};
  optc_context* raw = nullptr;
  const int32_t created = api.create(file.weights, file.weight_bytes, &settings, &raw);
  if (created) fail(api, created, nullptr);
  const std::unique_ptr<optc_context, decltype(api.destroy)> context(raw, api.destroy);

  std::vector<Array> arrays = make_inputs(info, options);
  std::vector<optc_tensor> inputs;
  for (int32_t i = 0; i < info.num_inputs; i++) inputs.push_back(view(arrays[i], info.inputs[i].name));

  std::vector<optc_tensor> outputs(info.num_outputs);
  std::vector<double> microseconds;
  for (int round = 0; round < options.repeat; round++) {
    for (optc_tensor& output : outputs) {
      api.free(output.data);
      output = optc_tensor{};
    }
    const auto start = std::chrono::steady_clock::now();
    const int32_t status = api.run(context.get(), inputs.data(), outputs.data());
    const auto end = std::chrono::steady_clock::now();
    if (status) fail(api, status, context.get());
    microseconds.push_back(std::chrono::duration<double, std::micro>(end - start).count());
  }

  for (int32_t i = 0; i < info.num_outputs; i++) {
    print_tensor(info.outputs[i].name, outputs[i]);
    if (!options.output.empty()) write_npy(options.output + "/" + file_name(info.outputs[i].name), outputs[i]);
    api.free(outputs[i].data);
  }
  std::sort(microseconds.begin(), microseconds.end());
  const size_t count = microseconds.size();
  std::printf("%zu runs on %d threads: median %.3f us, p90 %.3f us\n", count, api.num_threads(context.get()),
              microseconds[count / 2], microseconds[std::min(count - 1, count * 9 / 10)]);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(parse(count, arguments));
    return 0;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "optc_runner: %s\n", failure.what());
    return failure.code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "optc_runner: %s\n", error.what());
    return 3;
  }
}
