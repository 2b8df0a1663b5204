/* Launches of CUDA kernels, for the stubs that backends/cuda/source.py writes. */
#ifndef OPTC_CUDA_H
#define OPTC_CUDA_H
#include "device.h"

extern const optc_device optc_cuda_device;

/* The artifact's own code: a fat binary or PTX, and the names of its functions. */
extern const char optc_cuda_image[];
extern const char* const optc_cuda_functions[];
extern const int32_t optc_cuda_num_functions;

/* Enqueues function `index` on the stream of the context whose run this is; an empty grid is no launch. */
int32_t optc_cuda_launch(int32_t index, const int64_t grid[3], const int32_t block[3], int32_t shared_bytes,
                         void** arguments);

#define OPTC_LAUNCH(index, grid, block, shared_bytes, arguments)                                  \
  do {                                                                                            \
    int32_t status_ = optc_cuda_launch((index), (grid), (block), (shared_bytes), (arguments));    \
    if (status_) return status_;                                                                  \
  } while (0)

#endif
