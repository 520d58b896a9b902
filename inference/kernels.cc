// inference/kernels.cc - the run-time choice between the kernel tables.
#include "inference/kernels.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace edge::inference {
namespace {

#if defined(__x86_64__)
// Half-float conversion; clang 16 does not know "f16c" as a name.
bool HasHalves() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}
#endif

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
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasHalves();
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
