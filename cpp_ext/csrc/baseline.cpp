#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "support.h"

#define FUSEMATTE_ISA baseline
#include "kernels.inl"

namespace fusematte {
const Kernels baseline_kernels = FUSEMATTE_KERNELS("baseline", [] { return true; });
}
