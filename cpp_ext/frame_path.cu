// All kernels of the device: those of the single jobs, and what lies between them when a whole frame
// stays on the GPU.  The same arithmetic is NumPy's and OpenCV's in engine/matting/refine.py and
// engine/compositing/{composite,look}.py.
#include <cmath>

#include "csrc/kernels.cu"

namespace fusematte::device {

// A box of a float picture [channels, from.., ..] as one thread sees it: means over source cells.
__device__ inline float area_mean(const float* plane, int width, Span rows, Span columns) {
    float sum = 0;
    for (int y = rows.first; y <= rows.last; ++y) {
        float line = 0;
        for (int x = columns.first; x <= columns.last; ++x)
            line += columns.weight(x) * plane[static_cast<std::size_t>(y) * width + x];
        sum += rows.weight(y) * line;
    }
    return sum;
}

// The index that OpenCV's default border has in the place of one outside 0 .. size - 1.
__device__ inline int mirrored(int i, int size) {
    if (size == 1) return 0;
    while (i < 0 || i >= size) i = i < 0 ? -i : 2 * (size - 1) - i;
    return i;
}

// What counts as background, and never nothing: the blur is normalised by it.
__device__ inline float room(float alpha) { return clamp(1 - alpha, 1e-3f, 1.0f); }

// The least sum of weights that a mean is divided by.
constexpr double kLeastWeight = 1e-6;

// ---- Gaussian means, along the rows, then down the columns; taps: [2 * radius + 1] weights

// sums[N, h, w] of the quantities load(at, q).
template <int N, class Load>
__device__ void gauss_rows(int height, int width, const float* taps, int radius, float* sums,
                           const Load& load) {
    const int x = thread_x(), y = thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    const std::size_t line = static_cast<std::size_t>(y) * width;
    float total[N] = {}, q[N];
    for (int k = -radius; k <= radius; ++k) {
        load(line + mirrored(x + k, width), q);
        for (int c = 0; c < N; ++c) total[c] += taps[k + radius] * q[c];
    }
    for (int c = 0; c < N; ++c) sums[c * area + line + x] = total[c];
}

// Calls store(at, means).
template <int N, class Store>
__device__ void gauss_columns(int height, int width, const float* taps, int radius,
                              const float* sums, const Store& store) {
    const int x = thread_x(), y = thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    float total[N] = {};
    for (int k = -radius; k <= radius; ++k) {
        const std::size_t at = static_cast<std::size_t>(mirrored(y + k, height)) * width + x;
        for (int c = 0; c < N; ++c) total[c] += taps[k + radius] * sums[c * area + at];
    }
    store(static_cast<std::size_t>(y) * width + x, total);
}

}  // namespace fusematte::device

extern "C" {

// The area means of a picture: source [channels, height, width] -> target [channels, rows, columns].
__global__ void shrink(const float* source, int channels, int height, int width, float* target,
                       int rows, int columns) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= columns || y >= rows) return;
    const device::Span down(height, rows, y), across(width, columns, x);
    for (int c = 0; c < channels; ++c)
        target[(static_cast<std::size_t>(c) * rows + y) * columns + x] = device::area_mean(
            source + static_cast<std::size_t>(c) * height * width, width, down, across);
}

// The people's colour less the frame's, in code values: all [3, height, width].
__global__ void color_shift(const float* people, const float* color, Levels levels, float* shift,
                            int height, int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    for (int c = 0; c < 3; ++c) {
        const std::size_t at = c * area + static_cast<std::size_t>(y) * width + x;
        shift[at] = (people[at] - color[at]) * (c ? levels.chroma_span : levels.luma_span);
    }
}

// The background out of focus, along the rows: color [3, h, w] weighted by what is not people, and
// the weights themselves, -> sums [4, h, w].
__global__ void blur_rows(const float* color, const float* alpha, const float* taps, int radius,
                          float* sums, int height, int width) {
    const std::size_t area = static_cast<std::size_t>(height) * width;
    device::gauss_rows<4>(height, width, taps, radius, sums, [&](std::size_t at, float* q) {
        q[3] = device::room(alpha[at]);
        for (int c = 0; c < 3; ++c) q[c] = color[c * area + at] * q[3];
    });
}

// Down the columns, normalised, in code values: sums [4, h, w] -> behind [3, h, w].
__global__ void blur_columns(const float* sums, const float* taps, int radius, Levels levels,
                             float* behind, int height, int width) {
    const std::size_t area = static_cast<std::size_t>(height) * width;
    device::gauss_columns<4>(
        height, width, taps, radius, sums, [&](std::size_t at, const float* mean) {
            for (int c = 0; c < 3; ++c)
                behind[c * area + at] =
                    mean[c] / mean[3] * (c ? levels.chroma_span : levels.luma_span) +
                    (c ? levels.neutral : levels.black);
        });
}

// A background that is a grid of code values, as Y'CbCr: light [3, height, width].
__global__ void grid_light(Grid background, Levels levels, float* light, int height, int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    for (int c = 0; c < 3; ++c)
        light[c * area + static_cast<std::size_t>(y) * width + x] =
            (device::sample(background, c, x, y, height, width) -
             (c ? levels.neutral : levels.black)) /
            (c ? levels.chroma_span : levels.luma_span);
}

// Light wrap, along the rows: light [3, h, w] and what is not people -> sums [4, h, w].
__global__ void wrap_rows(const float* light, const float* alpha, const float* taps, int radius,
                          float* sums, int height, int width) {
    const std::size_t area = static_cast<std::size_t>(height) * width;
    device::gauss_rows<4>(height, width, taps, radius, sums, [&](std::size_t at, float* q) {
        for (int c = 0; c < 3; ++c) q[c] = light[c * area + at];
        q[3] = 1 - alpha[at];
    });
}

// Down the columns, and onto the people's colours: foreground [3, h, w] -> lit [3, h, w].
__global__ void wrap_columns(const float* sums, const float* taps, int radius, float strength,
                             const float* foreground, float* lit, int height, int width) {
    const std::size_t area = static_cast<std::size_t>(height) * width;
    device::gauss_columns<4>(
        height, width, taps, radius, sums, [&](std::size_t at, const float* mean) {
            for (int c = 0; c < 3; ++c) {
                const std::size_t i = c * area + at;
                lit[i] = device::blend(mean[c], foreground[i], strength * mean[3]);
            }
        });
}

// The old background's chroma weighted by what is not people: old [3, h, w] -> sums [w, 3] of Cb,
// Cr and the weights, one thread a column.
__global__ void tint_columns(const float* old, const float* alpha, double* sums, int height,
                             int width) {
    const int x = device::thread_x();
    if (x >= width || device::thread_y() > 0) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    double blue = 0, red = 0, total = 0;
    for (int y = 0; y < height; ++y) {
        const std::size_t at = static_cast<std::size_t>(y) * width + x;
        const double weight = 1 - alpha[at];
        blue += old[area + at] * weight;
        red += old[2 * area + at] * weight;
        total += weight;
    }
    sums[3 * x] = blue, sums[3 * x + 1] = red, sums[3 * x + 2] = total;
}

// Its hue, a unit vector in Cb and Cr, and how much of it counts: all of it from the saturation
// `full` on.  One thread.
__global__ void tint_mean(const double* sums, int width, float full, float* tint) {
    if (device::thread_x() > 0 || device::thread_y() > 0) return;
    double blue = 0, red = 0, total = 0;
    for (int x = 0; x < width; ++x) {
        blue += sums[3 * x], red += sums[3 * x + 1], total += sums[3 * x + 2];
    }
    if (total < device::kLeastWeight) total = device::kLeastWeight;
    const float saturation = static_cast<float>(sqrt(blue * blue + red * red) / total);
    const double scale = saturation > 0 ? 1 / (saturation * total) : 0;
    tint[0] = static_cast<float>(blue * scale), tint[1] = static_cast<float>(red * scale);
    tint[2] = device::clamp(saturation / full, 0.0f, 1.0f);
}

// Takes the tint's hue out of the people's colours [3, h, w].
__global__ void despill(float* foreground, const float* tint, float strength, int height,
                        int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    float* blue = foreground + area + static_cast<std::size_t>(y) * width + x;
    float* red = blue + area;
    const float across = *blue * tint[1] - *red * tint[0];
    const float excess = *blue * tint[0] + *red * tint[1] - (across < 0 ? -across : across);
    const float taken = excess > 0 ? strength * tint[2] * excess : 0;
    *blue -= taken * tint[0], *red -= taken * tint[1];
}

// values [rows, width] in 0..1 along a curve, whose table [entries] is interpolated.
__global__ void apply_curve(float* values, const float* table, int entries, int rows, int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= rows) return;
    float& value = values[static_cast<std::size_t>(y) * width + x];
    const float place = value * static_cast<float>(entries - 1);
    const int first = device::least(static_cast<int>(place), entries - 2);
    value = device::blend(table[first + 1], table[first], place - static_cast<float>(first));
}

// Turns float pictures [channels, height, width] counterclockwise by 1 to 3 quarters.
__global__ void turn(const float* source, int channels, int height, int width, float* target,
                     int quarters) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const int columns = quarters == 2 ? width : height;
    const int row = quarters == 1 ? width - 1 - x : quarters == 2 ? height - 1 - y : x;
    const int column = quarters == 1 ? y : quarters == 2 ? width - 1 - x : height - 1 - y;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    for (int c = 0; c < channels; ++c)
        target[c * area + static_cast<std::size_t>(row) * columns + column] =
            source[c * area + static_cast<std::size_t>(y) * width + x];
}

}  // extern "C"
