// Every kernel, compiled once per instruction set into the namespace FUSEMATTE_ISA.
// All library headers come before the unit's target pragma, see avx512.cpp.
#include "pixel.h"
#include "simd.inl"
#include "box.inl"
#include "composite.inl"
#include "resize.inl"

#define FUSEMATTE_KERNELS(name, supported)                                           \
    {name, supported, FUSEMATTE_ISA::resize_to_tensor, FUSEMATTE_ISA::guided_coefficients, \
     FUSEMATTE_ISA::estimate_foreground, FUSEMATTE_ISA::composite}
