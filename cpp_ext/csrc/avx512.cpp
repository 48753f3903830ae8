#include "kernels.h"

#ifdef FUSEMATTE_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "support.h"

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in its own header: GCC bug 105593

// Only what follows may use the instructions: nothing before it is shared code in disguise.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif

#define FUSEMATTE_ISA avx512
#define FUSEMATTE_LANES 16
#include "kernels.inl"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace fusematte {

static bool supported() {
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

const Kernels avx512_kernels = FUSEMATTE_KERNELS("avx512", supported);

}  // namespace fusematte
#endif
