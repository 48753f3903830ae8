// The kernels' C++ interface.  It knows neither Python nor the instruction set that runs.
//
// Arguments are taken as valid: the Python package checks them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fusematte {

// How a picture lies in memory; shared by a frame, its background and the output.
struct Layout {
    int height, width;
    int chroma_height, chroma_width;
    int bits;          // 8: uint8 samples, 10: uint16 samples
    int low_bits;      // unused low bits of a sample: 6 in P010, else 0
    bool interleaved;  // U and V alternate in one plane (NV12, P010)

    int peak() const { return (1 << bits) - 1; }
};

// Y, U, V; interleaved layouts have Y and UV.  Strides count bytes and may be 0 or negative.
template <class Byte>
struct Planes {
    Byte* data[3];
    std::ptrdiff_t stride[3];
};
using Source = Planes<const std::uint8_t>;
using Target = Planes<std::uint8_t>;

// Code values to Y'CbCr: (Y - black) / luma_span, (C - neutral) / chroma_span.
struct Levels {
    float black, luma_span, neutral, chroma_span;
};

// The luma weights of red and blue.
struct Matrix {
    float red, blue;
};

struct ResizeJob {
    Layout layout;
    Source source;
    Levels levels;
    Matrix matrix;
    int height, width;
    float* rgb;    // [3, height, width], or null
    float* ycbcr;  // [3, height, width]
};

struct GuidedJob {
    int height, width, radius;
    double epsilon;
    const float* guide;  // [height, width], as all of them
    const float* alpha;
    float* slope;
    float* offset;
};

struct GuidedAlphaJob {
    int height, width;  // both even
    int radius;         // at half of that resolution
    float certain;
    double epsilon;
    const float* guide;  // [3, height, width]
    const float* alpha;  // [height, width]
    float* out;          // [height, width]
};

struct ForegroundJob {
    int height, width;
    const int* radii;
    int passes;
    float lower[3], upper[3];
    const float* color;  // [3, height, width]
    const float* alpha;  // [height, width]
    float* foreground;   // [3, height, width]
    float* background;   // [3, height, width]
};

struct MoveJob {
    int height, width, channels;  // 1, 2 or 4
    int flow_height, flow_width;
    const float* planes;  // [height, width, channels]
    const float* flow;    // [flow_height, flow_width, 2], to the right and down, in its own pixels
    float* out;           // [channels, height, width]
};

struct BlendMovedJob {
    int height, width, radius;
    float noise, unfit;
    const float* luma;            // [height, width]
    const float *first, *second;  // [2, height, width]: alpha, luma; or [4, ...]: alpha, F, B, luma
    float* alpha;                 // [height, width], as all below
    float *foreground, *background, *beta;  // of four planes; of two null
    float* conflict;
};

// A small picture [channels, height, width] that is interpolated to full resolution, or null.
struct Grid {
    const float* data;
    int height, width;
};

struct CompositeJob {
    Layout layout;
    Source frame;
    Source background;      // or, where null:
    Grid small_background;  // [3, ...] in code values; where both are null, the foreground alone
    Target out;
    std::uint8_t* alpha;  // [layout.height, layout.width] samples in the low bits, or null
    std::ptrdiff_t alpha_stride;
    Levels levels;
    Grid slope, offset;  // [1, ...], both of one size; on a device of any
    Grid shift;          // [3, ...] in code values, or null
    bool keep_solid;     // shift fades out towards full alpha
};

// The kernels as compiled for one instruction set.
struct Kernels {
    const char* name;
    bool (*supported)();
    bool (*all_finite)(const float* values, std::size_t count);
    void (*resize_to_tensor)(const ResizeJob&, int threads);
    void (*guided_coefficients)(const GuidedJob&, int threads);
    void (*guided_alpha)(const GuidedAlphaJob&, int threads);
    void (*estimate_foreground)(const ForegroundJob&, int threads);
    void (*composite)(const CompositeJob&, int threads);
    void (*move)(const MoveJob&, int threads);
    void (*blend_moved)(const BlendMovedJob&, int threads);
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__) && defined(__GNUC__)
#define FUSEMATTE_X86 1
extern const Kernels avx2_kernels, avx512_kernels;
#elif defined(__aarch64__) && defined(__GNUC__)
#define FUSEMATTE_ARM64 1
extern const Kernels neon_kernels;
#endif

// Every instruction set that this build has and this processor runs, slowest first; null-ended.
const Kernels* const* available_kernels();

}  // namespace fusematte
