// YUV planes to a small RGB tensor by area averaging: rows first, into one line of sums, then
// along that line, so that every source row is read once (twice where two outputs share it).

namespace fusematte::FUSEMATTE_ISA {

// sums (+)= the weighted sum of R rows of n samples.
template <class T, int R>
void weigh_rows(int n, const std::uint8_t* data, std::ptrdiff_t stride, const float* weights,
                bool first, float* __restrict sums) {
    const T* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = reinterpret_cast<const T*>(data + r * stride);
    for (int x = 0; x < n; ++x) {
        float sum = first ? 0.0f : sums[x];
        for (int r = 0; r < R; ++r) sum += weights[r] * static_cast<float>(rows[r][x]);
        sums[x] = sum;
    }
}

template <class T>
void average_rows(int n, const std::uint8_t* data, std::ptrdiff_t stride, const AreaTable& table,
                  int target, float* sums) {
    const float* weights = table.weights + static_cast<std::size_t>(target) * table.taps;
    int from = 0, to = table.taps;
    while (weights[from] == 0) ++from;
    while (weights[to - 1] == 0) --to;
    data += (table.first[target] + from) * stride;
    for (int k = from; k < to; k += 4, data += 4 * stride) {
        const bool first = k == from;
        switch (to - k) {
            case 1: weigh_rows<T, 1>(n, data, stride, weights + k, first, sums); break;
            case 2: weigh_rows<T, 2>(n, data, stride, weights + k, first, sums); break;
            case 3: weigh_rows<T, 3>(n, data, stride, weights + k, first, sums); break;
            default: weigh_rows<T, 4>(n, data, stride, weights + k, first, sums);
        }
    }
}

// line[i] = the area average of the sums, whose neighbours are `step` apart.
inline void average_columns(const AreaTable& table, int width, const float* sums, int step,
                            float* line) {
    for (int i = 0; i < width; ++i) {
        const float* weights = table.weights + static_cast<std::size_t>(i) * table.taps;
        const float* source = sums + static_cast<std::ptrdiff_t>(table.first[i]) * step;
        float sum = 0;
        for (int k = 0; k < table.taps; ++k) sum += weights[k] * source[k * step];
        line[i] = sum;
    }
}

// One row of averaged code values -> RGB and Y'CbCr.
static void store_row(const ResizeJob& job, int row, const float* const* lines) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    const float scale = 1.0f / static_cast<float>(1 << job.layout.low_bits);
    const float luma = 1 / job.levels.luma_span, chroma = 1 / job.levels.chroma_span;
    const float black = job.levels.black, neutral = job.levels.neutral;
    float* rgb = job.rgb + static_cast<std::size_t>(row) * job.width;
    float* ycbcr = job.ycbcr + static_cast<std::size_t>(row) * job.width;
    for (int x = 0; x < job.width; ++x) {
        const float y = (lines[0][x] * scale - black) * luma;
        const float cb = (lines[1][x] * scale - neutral) * chroma;
        const float cr = (lines[2][x] * scale - neutral) * chroma;
        float pixel[3];
        to_rgb(y, cb, cr, job.matrix.red, job.matrix.blue, pixel);
        ycbcr[x] = y, ycbcr[area + x] = cb, ycbcr[2 * area + x] = cr;
        for (int c = 0; c < 3; ++c) rgb[c * area + x] = pixel[c];
    }
}

template <class T>
void resize(const ResizeJob& job, int threads) {
    const Layout& layout = job.layout;
    const Source& source = job.source;
    const AreaTable luma_rows(layout.height, job.height), luma_columns(layout.width, job.width);
    const AreaTable chroma_rows(layout.chroma_height, job.height);
    const AreaTable chroma_columns(layout.chroma_width, job.width);
    const int step = layout.interleaved ? 2 : 1;
    const int chroma_samples = layout.chroma_width * step;
    const std::size_t sums_size = padded(most(layout.width, chroma_samples)) + kLanes;
    const std::size_t line_size = padded(job.width);
    const std::size_t scratch = sums_size + 3 * line_size;
    const int workers = least(threads, job.height);
    const Buffer buffer(sizeof(float) * scratch * workers);
    parallel(workers, job.height, [&](int worker, int begin, int end) {
        float* sums = buffer.floats() + scratch * worker;
        float* lines[3];
        for (int c = 0; c < 3; ++c) lines[c] = sums + sums_size + c * line_size;
        for (int row = begin; row < end; ++row) {
            average_rows<T>(layout.width, source.data[0], source.stride[0], luma_rows, row, sums);
            average_columns(luma_columns, job.width, sums, 1, lines[0]);
            for (int c = 1; c < 3; ++c) {
                if (c == 1 || !layout.interleaved)
                    average_rows<T>(chroma_samples, source.data[c], source.stride[c], chroma_rows,
                                    row, sums);
                const int lead = layout.interleaved ? c - 1 : 0;
                average_columns(chroma_columns, job.width, sums + lead, step, lines[c]);
            }
            store_row(job, row, lines);
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
