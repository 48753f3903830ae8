#include "kernels.h"

#ifdef FUSEMATTE_ARM64
#include <arm_neon.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "support.h"

#define FUSEMATTE_ISA neon
#define FUSEMATTE_LANES 4
#include "kernels.inl"

namespace fusematte {
// Every 64-bit Arm processor has it.
const Kernels neon_kernels = FUSEMATTE_KERNELS("neon", [] { return true; });
}  // namespace fusematte
#endif
