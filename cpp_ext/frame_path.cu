// All kernels of the device: those of the single jobs, and what lies between them when a whole frame
// stays on the GPU.  The same arithmetic is NumPy's and OpenCV's in engine/matting/refine.py and
// engine/compositing/composite.py.
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

// The offset with which the network's alpha passes unchanged: alpha - slope * guide, all [h, w].
__global__ void refine_offset(const float* alpha, const float* slope, const float* guide,
                              float* offset, int height, int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const std::size_t at = static_cast<std::size_t>(y) * width + x;
    offset[at] = alpha[at] - slope[at] * guide[at];
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
// the weights themselves, -> sums [4, h, w].  taps: [2 * radius + 1].
__global__ void blur_rows(const float* color, const float* alpha, const float* taps, int radius,
                          float* sums, int height, int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    const std::size_t line = static_cast<std::size_t>(y) * width;
    float total[4] = {};
    for (int k = -radius; k <= radius; ++k) {
        const std::size_t at = line + device::mirrored(x + k, width);
        const float weight = device::room(alpha[at]);
        const float tap = taps[k + radius];
        for (int c = 0; c < 3; ++c) total[c] += tap * (color[c * area + at] * weight);
        total[3] += tap * weight;
    }
    for (int c = 0; c < 4; ++c) sums[c * area + line + x] = total[c];
}

// Down the columns, normalised, in code values: sums [4, h, w] -> behind [3, h, w].
__global__ void blur_columns(const float* sums, const float* taps, int radius, Levels levels,
                             float* behind, int height, int width) {
    const int x = device::thread_x(), y = device::thread_y();
    if (x >= width || y >= height) return;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    float total[4] = {};
    for (int k = -radius; k <= radius; ++k) {
        const std::size_t at =
            static_cast<std::size_t>(device::mirrored(y + k, height)) * width + x;
        for (int c = 0; c < 4; ++c) total[c] += taps[k + radius] * sums[c * area + at];
    }
    for (int c = 0; c < 3; ++c)
        behind[c * area + static_cast<std::size_t>(y) * width + x] =
            total[c] / total[3] * (c ? levels.chroma_span : levels.luma_span) +
            (c ? levels.neutral : levels.black);
}

}  // extern "C"
