// Every kernel, compiled once per instruction set into the namespace FUSEMATTE_ISA.
// All library headers come before the unit's target pragma, see avx512.cpp.
#include "pixel.h"
#include "simd.inl"
#include "box.inl"
#include "motion.inl"
#include "composite.inl"
#include "whole.inl"
#include "resize.inl"

namespace fusematte::FUSEMATTE_ISA {

// Neither NaN nor infinite, by the exponents' bits: so the loop is one of integers.
static bool all_finite(const float* values, std::size_t count) {
    constexpr std::uint32_t exponent = 0x7f800000;
    std::uint32_t bad = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

}  // namespace fusematte::FUSEMATTE_ISA

#define FUSEMATTE_KERNELS(name, supported)                                                   \
    {name, supported, FUSEMATTE_ISA::all_finite, FUSEMATTE_ISA::resize_to_tensor,            \
     FUSEMATTE_ISA::guided_coefficients, FUSEMATTE_ISA::guided_alpha,                        \
     FUSEMATTE_ISA::estimate_foreground, FUSEMATTE_ISA::composite, FUSEMATTE_ISA::move,       \
     FUSEMATTE_ISA::blend_moved}
