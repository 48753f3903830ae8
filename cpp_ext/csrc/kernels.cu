// The kernels on the device: the arithmetic of the CPU's, one thread per small piece of work and
// nothing shared between threads.  Loaded through the driver API; cuda.py knows which kernels make
// a job, their launch sizes and their scratch memory.
#define FUSEMATTE_ISA device
#include "host_device.h"
#include "kernels.h"
#include "pixel.h"

namespace fusematte::device {

constexpr int kStrip = 32;  // pixels that one thread of a box mean walks

__device__ inline int thread_x() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }
__device__ inline int thread_y() { return static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y); }
__device__ inline int least(int a, int b) { return a < b ? a : b; }
__device__ inline int most(int a, int b) { return a > b ? a : b; }

template <class T>
__device__ inline const T* row(const Source& planes, int channel, int y) {
    return reinterpret_cast<const T*>(planes.data[channel] + y * planes.stride[channel]);
}

// ---- resize_to_tensor

// The source cells under one target cell: the first and the last count in part.
struct Span {
    int first, last;
    float head, tail, whole;

    __device__ Span(int source, int target, int i) {
        const double step = static_cast<double>(source) / target;
        const double begin = i * step, end = begin + step;
        first = static_cast<int>(begin);
        last = least(static_cast<int>(end), source - 1);
        whole = static_cast<float>(1 / step);
        head = static_cast<float>((first == last ? end - begin : first + 1 - begin) / step);
        tail = static_cast<float>((end - last) / step);
    }

    __device__ float weight(int cell) const {
        if (cell == first) return head;
        return cell == last ? tail : whole;
    }
};

template <class T>
__device__ float area_mean(const std::uint8_t* plane, std::ptrdiff_t stride, int step, Span rows,
                           Span columns) {
    float sum = 0;
    for (int y = rows.first; y <= rows.last; ++y) {
        const T* samples = reinterpret_cast<const T*>(plane + y * stride);
        float line = 0;
        for (int x = columns.first; x <= columns.last; ++x)
            line += columns.weight(x) * static_cast<float>(samples[x * step]);
        sum += rows.weight(y) * line;
    }
    return sum;
}

template <class T>
__device__ void resize(const ResizeJob& job) {
    const int x = thread_x(), y = thread_y();
    if (x >= job.width || y >= job.height) return;
    const Layout& layout = job.layout;
    const float scale = 1.0f / static_cast<float>(1 << layout.low_bits);
    const Span rows(layout.height, job.height, y), columns(layout.width, job.width, x);
    const Span chroma_rows(layout.chroma_height, job.height, y);
    const Span chroma_columns(layout.chroma_width, job.width, x);
    // Planes are named one by one: an index would bring their addresses into slow local memory.
    const Source& source = job.source;
    const bool pairs = layout.interleaved;
    const auto* red = pairs ? source.data[1] + sizeof(T) : source.data[2];
    const std::ptrdiff_t red_stride = pairs ? source.stride[1] : source.stride[2];
    const float luma = area_mean<T>(source.data[0], source.stride[0], 1, rows, columns);
    const int step = pairs ? 2 : 1;
    const float chroma[2] = {
        area_mean<T>(source.data[1], source.stride[1], step, chroma_rows, chroma_columns),
        area_mean<T>(red, red_stride, step, chroma_rows, chroma_columns),
    };
    const float color[3] = {
        (luma * scale - job.levels.black) / job.levels.luma_span,
        (chroma[0] * scale - job.levels.neutral) / job.levels.chroma_span,
        (chroma[1] * scale - job.levels.neutral) / job.levels.chroma_span,
    };
    const ToRgb matrix = to_rgb(job.matrix.red, job.matrix.blue);
    const float rgb[3] = {
        color[0] + matrix.red_cr * color[2],
        color[0] + matrix.green_cb * color[1] + matrix.green_cr * color[2],
        color[0] + matrix.blue_cb * color[1],
    };
    for (int c = 0; c < 3; ++c) {
        const std::size_t at = (static_cast<std::size_t>(c) * job.height + y) * job.width + x;
        job.ycbcr[at] = color[c];
        job.rgb[at] = clamp(rgb[c], 0.0f, 1.0f);
    }
}

// ---- box means: running sums down the columns, kept, then along the rows

// sums[y, x, N] over the rows y - radius .. y + radius of the quantities load(at, q).
template <int N, class Load>
__device__ void sum_columns(int height, int width, int radius, double* sums, const Load& load) {
    const int x = thread_x(), begin = thread_y() * kStrip;
    if (x >= width || begin >= height) return;
    double running[N] = {}, q[N];
    const auto add = [&](int y, double sign) {
        load(static_cast<std::size_t>(y) * width + x, q);
        for (int k = 0; k < N; ++k) running[k] += sign * q[k];
    };
    for (int y = most(0, begin - radius); y < least(height, begin + radius); ++y) add(y, 1);
    for (int y = begin; y < least(height, begin + kStrip); ++y) {
        if (y + radius < height) add(y + radius, 1);
        double* out = sums + (static_cast<std::size_t>(y) * width + x) * N;
        for (int k = 0; k < N; ++k) out[k] = running[k];
        if (y - radius >= 0) add(y - radius, -1);
    }
}

// Calls store(at, means) with the window's means.
template <int N, class Store>
__device__ void mean_rows(int height, int width, int radius, const double* sums,
                          const Store& store) {
    const int y = thread_x(), begin = thread_y() * kStrip;
    if (y >= height || begin >= width) return;
    const double* line = sums + static_cast<std::size_t>(y) * width * N;
    double running[N] = {}, means[N];
    const auto add = [&](int x, double sign) {
        for (int k = 0; k < N; ++k) running[k] += sign * line[x * N + k];
    };
    const int rows = least(y + radius, height - 1) - most(y - radius, 0) + 1;
    for (int x = most(0, begin - radius); x < least(width, begin + radius); ++x) add(x, 1);
    for (int x = begin; x < least(width, begin + kStrip); ++x) {
        if (x + radius < width) add(x + radius, 1);
        const int across = least(x + radius, width - 1) - most(x - radius, 0) + 1;
        for (int k = 0; k < N; ++k) means[k] = running[k] / (rows * across);
        store(static_cast<std::size_t>(y) * width + x, means);
        if (x - radius >= 0) add(x - radius, -1);
    }
}

__device__ void guided_columns(const GuidedJob& job, double* sums) {
    sum_columns<Guided::moments>(
        job.height, job.width, job.radius, sums,
        [&](std::size_t at, double* q) { Guided::sample(job.guide[at], job.alpha[at], q); });
}

// Whether alpha is not solid in the window around `at`: neither all 0 nor all 1.
__device__ inline bool mixed_window(const GuidedJob& job, std::size_t at) {
    const int y = static_cast<int>(at / job.width), x = static_cast<int>(at % job.width);
    bool above = false, below = false;
    for (int v = most(0, y - job.radius); v <= least(job.height - 1, y + job.radius); ++v)
        for (int u = most(0, x - job.radius); u <= least(job.width - 1, x + job.radius); ++u) {
            const float alpha = job.alpha[static_cast<std::size_t>(v) * job.width + u];
            above |= !(alpha <= kSolid), below |= !(1 - alpha <= kSolid);
        }
    return above && below;
}

__device__ void guided_solve(const GuidedJob& job, const double* sums, float* solved) {
    mean_rows<Guided::moments>(
        job.height, job.width, job.radius, sums, [&](std::size_t at, const double* mean) {
            solved[at] = mixed_window(job, at) ? Guided::slope(mean, job.epsilon) : 0.0f;
        });
}

__device__ void guided_mean_columns(const GuidedJob& job, const float* solved, double* sums) {
    sum_columns<1>(job.height, job.width, job.radius, sums,
                   [&](std::size_t at, double* q) { q[0] = solved[at]; });
}

__device__ void guided_mean(const GuidedJob& job, const double* sums) {
    mean_rows<1>(job.height, job.width, job.radius, sums,
                 [&](std::size_t at, const double* mean) {
                     const auto slope = static_cast<float>(mean[0]);
                     job.slope[at] = slope;
                     job.offset[at] = Guided::offset(slope, job.guide[at], job.alpha[at]);
                 });
}

// Of a plane [2 height, 2 width], the mean of the four samples at `at` of half its resolution.
__device__ inline float mean_of_four(const float* plane, int width, std::size_t at) {
    const float* first = plane + 4 * (at / width) * width + 2 * (at % width);
    return 0.25f * (first[0] + first[1] + first[2 * width] + first[2 * width + 1]);
}

__device__ void guided_alpha_columns(const GuidedAlphaJob& job, double* sums) {
    const int height = job.height / 2, width = job.width / 2;
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    sum_columns<ColorGuided::moments>(
        height, width, job.radius, sums, [&](std::size_t at, double* q) {
            const float guide[3] = {mean_of_four(job.guide, width, at),
                                    mean_of_four(job.guide + area, width, at),
                                    mean_of_four(job.guide + 2 * area, width, at)};
            ColorGuided::sample(guide, mean_of_four(job.alpha, width, at), q);
        });
}

__device__ void guided_alpha_solve(const GuidedAlphaJob& job, const double* sums, float* solved) {
    using Filter = ColorGuided;
    mean_rows<Filter::moments>(job.height / 2, job.width / 2, job.radius, sums,
                               [&](std::size_t at, const double* mean) {
                                   Filter::solve(mean, job.epsilon, solved + at * Filter::outputs);
                               });
}

__device__ void guided_alpha_mean_columns(const GuidedAlphaJob& job, const float* solved,
                                          double* sums) {
    constexpr int outputs = ColorGuided::outputs;
    sum_columns<outputs>(job.height / 2, job.width / 2, job.radius, sums,
                         [&](std::size_t at, double* q) {
                             for (int k = 0; k < outputs; ++k) q[k] = solved[at * outputs + k];
                         });
}

__device__ void guided_alpha_mean(const GuidedAlphaJob& job, const double* sums, float* averaged) {
    const std::size_t half = static_cast<std::size_t>(job.height / 2) * (job.width / 2);
    mean_rows<ColorGuided::outputs>(
        job.height / 2, job.width / 2, job.radius, sums, [&](std::size_t at, const double* mean) {
            for (int k = 0; k < ColorGuided::outputs; ++k)
                averaged[k * half + at] = static_cast<float>(mean[k]);
        });
}

// ---- composite: one thread per chroma sample, with the one, two or four luma samples it covers

// Where target sample i lies between two source samples; exact in integers up to 32768 a side.
struct Position {
    int first, second;
    float fraction;

    __device__ Position(int source, int target, int i) {
        const int halves = most(0, (2 * i + 1) * source - target);  // of 1 / target
        first = least(halves / (2 * target), source - 1);
        second = least(first + 1, source - 1);
        fraction = static_cast<float>(halves - 2 * target * first) / static_cast<float>(2 * target);
    }
};

// A channel of a grid at sample (x, y) of a height x width plane, interpolated bilinearly.
__device__ inline float sample(const Grid& grid, int channel, int x, int y, int height, int width) {
    const Position v(grid.height, height, y), u(grid.width, width, x);
    const float* plane = grid.data + static_cast<std::size_t>(channel) * grid.height * grid.width;
    const float* upper = plane + static_cast<std::size_t>(v.first) * grid.width;
    const float* lower = plane + static_cast<std::size_t>(v.second) * grid.width;
    const float above = blend(upper[u.second], upper[u.first], u.fraction);
    const float below = blend(lower[u.second], lower[u.first], u.fraction);
    return blend(below, above, v.fraction);
}

__device__ void guided_alpha_apply(const GuidedAlphaJob& job, const float* averaged) {
    const int x = thread_x(), y = thread_y();
    if (x >= job.width || y >= job.height) return;
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
    const Grid grid{averaged, job.height / 2, job.width / 2};
    float mean[ColorGuided::outputs];
    for (int k = 0; k < ColorGuided::outputs; ++k)
        mean[k] = sample(grid, k, x, y, job.height, job.width);
    const float color[3] = {job.guide[at], job.guide[area + at], job.guide[2 * area + at]};
    job.out[at] = ColorGuided::alpha(mean, color, job.alpha[at], job.certain);
}

template <class T>
struct Site {
    const CompositeJob& job;

    __device__ float peak() const { return static_cast<float>((1 << job.layout.bits) - 1); }

    __device__ float code(const Source& planes, int channel, int x, int y) const {
        return static_cast<float>(row<T>(planes, channel, y)[x] >> job.layout.low_bits);
    }

    // `column` is the sample's place in its row of memory: not x where U and V alternate.
    __device__ void mix(int plane, int channel, int column, int x, int y, int height, int width,
                        float alpha) const {
        float value = code(job.frame, plane, column, y);
        if (job.shift.data) {
            const Fade shape = fade(job.keep_solid, peak());
            const float share = clamp(shape.start - shape.slope * alpha, 0.0f, 1.0f);
            const float shift = sample(job.shift, channel, x, y, height, width);
            value = clamp(value + share * shift, 0.0f, peak());
        }
        if (job.small_background.data) {
            const float far = sample(job.small_background, channel, x, y, height, width);
            value = blend(value, clamp(far, 0.0f, peak()), alpha);
        } else if (job.background.data[0]) {
            value = blend(value, code(job.background, plane, column, y), alpha);
        }
        T* out = reinterpret_cast<T*>(job.out.data[plane] + y * job.out.stride[plane]);
        out[column] = static_cast<T>(quantise(value, peak()) << job.layout.low_bits);
    }

    __device__ float luma(int x, int y) const {
        const Layout& layout = job.layout;
        const float value = (code(job.frame, 0, x, y) - job.levels.black) / job.levels.luma_span;
        const float slope = sample(job.slope, 0, x, y, layout.height, layout.width);
        const float offset = sample(job.offset, 0, x, y, layout.height, layout.width);
        const float mixed = clamp(slope * value + offset, 0.0f, 1.0f);
        const float alpha = mixed >= fade(job.keep_solid, peak()).solid ? 1.0f : mixed;
        mix(0, 0, x, x, y, layout.height, layout.width, alpha);
        if (job.alpha)
            reinterpret_cast<T*>(job.alpha + y * job.alpha_stride)[x] =
                static_cast<T>(quantise(alpha * peak(), peak()));
        return alpha;
    }
};

template <class T>
__device__ void composite(const CompositeJob& job) {
    const Layout& layout = job.layout;
    const int x = thread_x(), y = thread_y();
    if (x >= layout.chroma_width || y >= layout.chroma_height) return;
    const int down = layout.chroma_height < layout.height ? 2 : 1;
    const int across = layout.chroma_width < layout.width ? 2 : 1;
    const int bottom = least((y + 1) * down, layout.height);
    const int right = least((x + 1) * across, layout.width);
    const Site<T> site{job};
    float sum = 0;
    for (int v = y * down; v < bottom; ++v)
        for (int u = x * across; u < right; ++u) sum += site.luma(u, v);
    const float alpha = sum / ((bottom - y * down) * (right - x * across));
    for (int c = 1; c < 3; ++c)
        site.mix(layout.interleaved ? 1 : c, c, layout.interleaved ? 2 * x + c - 1 : x, x, y,
                 layout.chroma_height, layout.chroma_width, alpha);
}

}  // namespace fusematte::device

using namespace fusematte;

extern "C" {

__global__ void resize_to_tensor_8(ResizeJob job) { device::resize<std::uint8_t>(job); }
__global__ void resize_to_tensor_10(ResizeJob job) { device::resize<std::uint16_t>(job); }

__global__ void guided_columns(GuidedJob job, double* sums) { device::guided_columns(job, sums); }
__global__ void guided_solve(GuidedJob job, const double* sums, float* solved) {
    device::guided_solve(job, sums, solved);
}
__global__ void guided_mean_columns(GuidedJob job, const float* solved, double* sums) {
    device::guided_mean_columns(job, solved, sums);
}
__global__ void guided_mean(GuidedJob job, const double* sums) { device::guided_mean(job, sums); }

__global__ void guided_alpha_columns(GuidedAlphaJob job, double* sums) {
    device::guided_alpha_columns(job, sums);
}
__global__ void guided_alpha_solve(GuidedAlphaJob job, const double* sums, float* solved) {
    device::guided_alpha_solve(job, sums, solved);
}
__global__ void guided_alpha_mean_columns(GuidedAlphaJob job, const float* solved, double* sums) {
    device::guided_alpha_mean_columns(job, solved, sums);
}
__global__ void guided_alpha_mean(GuidedAlphaJob job, const double* sums, float* averaged) {
    device::guided_alpha_mean(job, sums, averaged);
}
__global__ void guided_alpha_apply(GuidedAlphaJob job, const float* averaged) {
    device::guided_alpha_apply(job, averaged);
}

// One fusion: `fore` and `back` are the colour itself at first, then the job's own results.
__global__ void foreground_columns(ForegroundJob job, int radius, const float* fore,
                                   const float* back, double* sums) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    device::sum_columns<device::Fusion::moments>(
        job.height, job.width, radius, sums, [&](std::size_t at, double* q) {
            const float f[3] = {fore[at], fore[area + at], fore[2 * area + at]};
            const float b[3] = {back[at], back[area + at], back[2 * area + at]};
            device::Fusion::sample(f, b, job.alpha[at], q);
        });
}
__global__ void foreground_solve(ForegroundJob job, int radius, const double* sums) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    device::mean_rows<device::Fusion::moments>(
        job.height, job.width, radius, sums, [&](std::size_t at, const double* mean) {
            const float color[3] = {job.color[at], job.color[area + at], job.color[2 * area + at]};
            float fore[3], back[3];
            device::Fusion::solve(mean, color, job.alpha[at], job.lower, job.upper, fore, back);
            for (int c = 0; c < 3; ++c) {
                job.foreground[c * area + at] = fore[c];
                job.background[c * area + at] = back[c];
            }
        });
}

__global__ void composite_8(CompositeJob job) { device::composite<std::uint8_t>(job); }
__global__ void composite_10(CompositeJob job) { device::composite<std::uint16_t>(job); }

}  // extern "C"
