// YUV planes to a small RGB tensor by area averaging: rows first, into one line of sums, then
// along that line, so that every source row is read once (twice where two outputs share it).  Bytes
// are averaged in whole numbers where they fit and the processor has AVX-512, else in floats.

namespace fusematte::FUSEMATTE_ISA {

// sums (+)= the weighted sum of R rows of n samples.
template <class T, int R>
void weigh_rows(int n, const std::uint8_t* data, std::ptrdiff_t stride, const float* given,
                bool first, const float* before, float* sums) {
    const T* rows[R];
    float weights[R];
    for (int r = 0; r < R; ++r)
        rows[r] = reinterpret_cast<const T*>(data + r * stride), weights[r] = given[r];
    for_lanes(n, [=](auto v, int x) FUSEMATTE_INLINED {
        auto sum = first ? v.set(0) : v.load(before + x);
        for (int r = 0; r < R; ++r) sum = v.fma(v.set(weights[r]), v.load(rows[r] + x, 0), sum);
        v.store(sums + x, sum);
    });
}

// The area average of the rows under target row i, in one of the two lines of sums: returned.
template <class T>
const float* average_rows(int n, const std::uint8_t* data, std::ptrdiff_t stride,
                          const AreaTable& table, int i, float* const* sums) {
    int from = 0, to = table.taps;
    while (table.weight(i, from) == 0) ++from;
    while (table.weight(i, to - 1) == 0) --to;
    data += (table.first[i] + from) * stride;
    const float* before = nullptr;
    for (int k = from, turn = 0; k < to; k += 6, data += 6 * stride, turn ^= 1) {
        float weights[6];
        for (int r = 0; r < least(6, to - k); ++r) weights[r] = table.weight(i, k + r);
        const auto weigh = [&](auto rows) {
            weigh_rows<T, rows>(n, data, stride, weights, k == from, before, sums[turn]);
        };
        switch (to - k) {
            case 1: weigh(std::integral_constant<int, 1>{}); break;
            case 2: weigh(std::integral_constant<int, 2>{}); break;
            case 3: weigh(std::integral_constant<int, 3>{}); break;
            case 4: weigh(std::integral_constant<int, 4>{}); break;
            case 5: weigh(std::integral_constant<int, 5>{}); break;
            default: weigh(std::integral_constant<int, 6>{});
        }
        before = sums[turn];
    }
    return before;
}

// line[i] = the area average of the sums.
inline void average_columns(const AreaTable& table, int width, const float* sums, float* line) {
    const int taps = table.taps, reach = table.reach, spread = table.spread;
    const std::size_t stride = table.stride;
    const float* weights = table.weights;
    const int* index = table.first;
    for_lanes(width, [=](auto v, int i) FUSEMATTE_INLINED {
        auto sum = v.set(0);
        const int far = v.lanes > 8 ? reach : spread;
        for (int k = 0; k < taps; ++k)
            sum = v.fma(v.load(weights + k * stride + i), v.pick(sums + k, index + i, far), sum);
        v.store(line + i, sum);
    });
}

// Every second value: U or V from sums of UV.
inline void split_pairs(int n, const float* pairs, float* __restrict out) {
    for (int x = 0; x < n; ++x) out[x] = pairs[2 * x];
}

// One row of averaged code values -> Y'CbCr and, if it is wanted, RGB.
template <bool Rgb>
void store_row(const ResizeJob& job, int row, const float* const* lines) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    const std::size_t start = static_cast<std::size_t>(row) * job.width;
    const float scale = 1.0f / static_cast<float>(1 << job.layout.low_bits);
    const float luma = scale / job.levels.luma_span, chroma = scale / job.levels.chroma_span;
    const float black = job.levels.black / job.levels.luma_span;
    const float neutral = job.levels.neutral / job.levels.chroma_span;
    const ToRgb matrix = to_rgb(job.matrix.red, job.matrix.blue);
    float *rgb = Rgb ? job.rgb + start : nullptr, *ycbcr = job.ycbcr + start;
    const float* const from[3] = {lines[0], lines[1], lines[2]};
    for_lanes(job.width, [=](auto v, int x) FUSEMATTE_INLINED {
        const auto y = v.fma(v.load(from[0] + x), v.set(luma), v.set(-black));
        const auto cb = v.fma(v.load(from[1] + x), v.set(chroma), v.set(-neutral));
        const auto cr = v.fma(v.load(from[2] + x), v.set(chroma), v.set(-neutral));
        v.store(ycbcr + x, y), v.store(ycbcr + area + x, cb), v.store(ycbcr + 2 * area + x, cr);
        if constexpr (Rgb) {
            const auto red = v.fma(cr, v.set(matrix.red_cr), y);
            const auto half_green = v.fma(cb, v.set(matrix.green_cb), y);
            const auto green = v.fma(cr, v.set(matrix.green_cr), half_green);
            const auto blue = v.fma(cb, v.set(matrix.blue_cb), y);
            v.store(rgb + x, clamp(v, red, 0, 1));
            v.store(rgb + area + x, clamp(v, green, 0, 1));
            v.store(rgb + 2 * area + x, clamp(v, blue, 0, 1));
        }
    });
}

template <class T>
void resize(const ResizeJob& job, int threads) {
    const Layout& layout = job.layout;
    const Source& source = job.source;
    const AreaTable luma_rows(layout.height, job.height), luma_columns(layout.width, job.width);
    const AreaTable chroma_rows(layout.chroma_height, job.height);
    const AreaTable chroma_columns(layout.chroma_width, job.width);
    const int chroma_samples = layout.chroma_width * (layout.interleaved ? 2 : 1);
    const std::size_t sums_size = padded(most(layout.width, chroma_samples)) + 4 * kLanes;
    const std::size_t scratch = 3 * sums_size + 3 * padded(job.width);
    const WholeAverage<T> luma_whole(luma_rows, luma_columns, layout.width, job.width, 1);
    const WholeAverage<T> chroma_whole(chroma_rows, chroma_columns, chroma_samples, job.width,
                                       layout.interleaved ? 2 : 1);
    const int workers = least(threads, job.height);
    const Buffer buffer(sizeof(float) * scratch * workers);
    parallel(workers, job.height, [&](int worker, int begin, int end) {
        float* memory = buffer.floats() + scratch * worker;
        float* const sums[2] = {memory, memory + sums_size};
        float* single = memory + 2 * sums_size;
        float* lines[3];
        for (int c = 0; c < 3; ++c) lines[c] = memory + 3 * sums_size + c * padded(job.width);
        const auto rows_of = [&](int channel, int n, const AreaTable& table, int row) {
            return average_rows<T>(n, source.data[channel], source.stride[channel], table, row,
                                   sums);
        };
        const auto average_luma = [&](int row) {
            if (luma_whole.fits())
                return luma_whole.average(source.data[0], source.stride[0], row, sums[0], lines[0]);
            const float* luma = rows_of(0, layout.width, luma_rows, row);
            average_columns(luma_columns, job.width, luma, lines[0]);
        };
        const auto average_chroma = [&](int row) {
            if (chroma_whole.fits()) {
                for (int p = 1; p < (layout.interleaved ? 2 : 3); ++p)
                    chroma_whole.average(source.data[p], source.stride[p], row, sums[0], lines[p],
                                         lines[2]);
                return;
            }
            const float* chroma = rows_of(1, chroma_samples, chroma_rows, row);
            for (int c = 1; c < 3; ++c) {
                if (layout.interleaved) split_pairs(layout.chroma_width, chroma + c - 1, single);
                else if (c == 2) chroma = rows_of(2, chroma_samples, chroma_rows, row);
                average_columns(chroma_columns, job.width, layout.interleaved ? single : chroma,
                                lines[c]);
            }
        };
        for (int row = begin; row < end; ++row) {
            average_luma(row);
            average_chroma(row);
            if (job.rgb) store_row<true>(job, row, lines);
            else store_row<false>(job, row, lines);
        }
    });
}

static void resize_to_tensor(const ResizeJob& job, int threads) {
    if (job.layout.bits == 8)
        resize<std::uint8_t>(job, threads);
    else
        resize<std::uint16_t>(job, threads);
}

}  // namespace fusematte::FUSEMATTE_ISA
