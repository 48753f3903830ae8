#include "kernels.h"

#include <initializer_list>

namespace fusematte {

const Kernels* const* available_kernels() {
    static const Kernels* list[4] = {};  // null-ended
    static const bool filled = [] {
        int count = 0;
        list[count++] = &baseline_kernels;
#ifdef FUSEMATTE_X86
        for (const Kernels* kernels : {&avx2_kernels, &avx512_kernels})
            if (kernels->supported()) list[count++] = kernels;
#endif
#ifdef FUSEMATTE_ARM64
        list[count++] = &neon_kernels;
#endif
        return true;
    }();
    static_cast<void>(filled);
    return list;
}

}  // namespace fusematte
