/* A CUDA driver that records launches, compiled against the real header: what ctypes hands over is what C receives. */
#include <string.h>
#include "cuda.h"

struct record {
  unsigned long long parameters[32], stream, function;
  unsigned grid[3], block[3], shared, attributes, attribute_id, attribute_value;
};

static struct record last;
static int widths[32], count, next_error;

void fake_set(const int *new_widths, int new_count, int error) {
  memcpy(widths, new_widths, new_count * sizeof(int));
  count = new_count;
  next_error = error;
}

struct record *fake_last(void) { return &last; }

CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *size) {
  if (index >= (size_t)count)
    return CUDA_ERROR_INVALID_VALUE;
  *offset = 8 * index;
  *size = widths[index];
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
  if (next_error)
    return next_error;
  memset(&last, 0, sizeof last);
  unsigned grid[3] = {config->gridDimX, config->gridDimY, config->gridDimZ};
  unsigned block[3] = {config->blockDimX, config->blockDimY, config->blockDimZ};
  memcpy(last.grid, grid, sizeof grid);
  memcpy(last.block, block, sizeof block);
  last.shared = config->sharedMemBytes;
  last.stream = (unsigned long long)config->hStream;
  last.function = (unsigned long long)function;
  last.attributes = config->numAttrs;
  if (config->numAttrs) {
    last.attribute_id = config->attrs[0].id;
    last.attribute_value = config->attrs[0].value.programmaticStreamSerializationAllowed;
  }
  for (int i = 0; i < count; i++)
    memcpy(&last.parameters[i], parameters[i], widths[i]);
  return CUDA_SUCCESS;
}
