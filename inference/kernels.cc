// inference/kernels.cc - the run-time choice between the kernel tables.
#include "inference/kernels.h"

#include <cstring>

namespace edge::inference {
namespace {

bool Supported(const Kernels& kernels) {
#if defined(__x86_64__)
  // Also checks that the operating system saves the registers.
  if (&kernels == &kAvx512Kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("avx2");
  }
  if (&kernels == &kAvx2Kernels) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }
#endif
  return &kernels == &kScalarKernels;
}

constexpr const Kernels* kTables[] = {
#if defined(__x86_64__)
    &kAvx512Kernels, &kAvx2Kernels,
#endif
    &kScalarKernels};

}  // namespace

const Kernels& BestKernels() {
  for (const Kernels* kernels : kTables) {
    if (Supported(*kernels)) return *kernels;
  }
  return kScalarKernels;
}

const Kernels* FindKernels(const char* name) {
  for (const Kernels* kernels : kTables) {
    if (std::strcmp(kernels->name, name) == 0) return Supported(*kernels) ? kernels : nullptr;
  }
  return nullptr;
}

}  // namespace edge::inference
