#include "kernels.h"

#ifdef FUSEMATTE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "support.h"

// Only what follows may use the instructions: nothing before it is shared code in disguise.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define FUSEMATTE_ISA avx2
#define FUSEMATTE_LANES 8
#include "kernels.inl"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace fusematte {

static bool supported() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const Kernels avx2_kernels = FUSEMATTE_KERNELS("avx2", supported);

}  // namespace fusematte
#endif
