// One pass over the full-resolution planes.  The unit of work is a chroma row with its one or two
// luma rows, cut into segments.  Where the coefficients bound alpha so near 0 or 1 that every
// sample must round to the background's or the frame's, a segment is copied.

namespace fusematte::FUSEMATTE_ISA {

constexpr int kSegment = 64;            // luma samples
constexpr int kReach = 8 * kSegment;    // mixed at once, so that its strips stay in the L1 cache
constexpr int kStrip = kReach + kLanes;

inline float smaller(float a, float b) { return a < b ? a : b; }
inline float larger(float a, float b) { return a > b ? a : b; }

struct Range {
    int from, to;
    int size() const { return to - from; }
};

// How grids of one size lie over the luma or the chroma samples.
struct Placement {
    Placement(const Grid& grid, int height, int width)
        : source{grid.height, grid.width}, rows(grid.height, height), columns(grid.width, width) {}

    // The grid's columns, and its rows, that a range of samples lies between.
    Range under(Range span) const { return between(columns, span, source.width); }
    Range beside(Range span) const { return between(rows, span, source.height); }

    // One channel, interpolated down to row y, for the columns under the span.
    void line(const Grid& grid, int channel, int y, Range span, float* __restrict out) const {
        const std::size_t row = static_cast<std::size_t>(channel) * grid.height + rows.index[y];
        const float* upper = grid.data + row * grid.width;
        const float* lower = rows.index[y] + 1 < grid.height ? upper + grid.width : upper;
        const Range needed = under(span);
        const float fraction = rows.fraction[y];
        for (int x = needed.from; x < needed.to; ++x)
            out[x] = upper[x] + fraction * (lower[x] - upper[x]);
    }

    // A line at sample x.
    template <class V>
    typename V::Vec at(V, const float* values, int x) const {
        return V::lookup(values, columns.index + x, columns.fraction + x, columns.near);
    }

    // A line at every sample of the span.
    void spread(const float* values, Range span, float* out) const {
        for_lanes(span.size(),
                  [&](auto v, int x) { v.store(out + x, at(v, values, span.from + x)); });
    }

    static Range between(const LinearTable& table, Range span, int size) {
        return {table.index[span.from], least(table.index[span.to - 1] + 2, size)};
    }

    struct {
        int height, width;
    } source;
    const LinearTable rows, columns;
};

template <class T>
class Compositor {
public:
    Compositor(const CompositeJob& job, int threads)
        : job_(job),
          layout_(job.layout),
          peak_(static_cast<float>(job.layout.peak())),
          low_bits_(sizeof(T) == 1 ? 0 : job.layout.low_bits),
          step_(job.layout.interleaved ? 2 : 1),
          down_(layout_.chroma_height < layout_.height ? 2 : 1),
          across_(layout_.chroma_width < layout_.width ? 2 : 1),
          segments_((layout_.width + kSegment - 1) / kSegment),
          coefficients_(job.slope, layout_.height, layout_.width),
          shift_(job.shift, layout_.height, layout_.width),
          chroma_shift_(job.shift, layout_.chroma_height, layout_.chroma_width),
          behind_(job.small_background, layout_.height, layout_.width),
          chroma_behind_(job.small_background, layout_.chroma_height, layout_.chroma_width),
          alpha_bounds_(sizeof(float) * 2 * segments_ * job.slope.height),
          shift_bounds_(sizeof(float) * segments_ * job.shift.height),
          line_size_(padded(most(most(job.slope.width, job.shift.width),
                                 job.small_background.width)) + 2 * kLanes),
          scratch_size_(kLines * line_size_ + kStrips * kStrip),
          scratch_(sizeof(float) * scratch_size_ * threads) {
        parallel(threads, job.slope.height, [&](int, int begin, int end) {
            for (int row = begin; row < end; ++row) bound_alpha(row);
        });
        parallel(threads, job.shift.height, [&](int, int begin, int end) {
            for (int row = begin; row < end; ++row) bound_shift(row);
        });
        parallel(threads, layout_.chroma_height, [&](int worker, int begin, int end) {
            const Memory memory = slice(scratch_.floats() + scratch_size_ * worker);
            for (int unit = begin; unit < end; ++unit) run(unit, memory);
        });
    }

private:
    enum class Cover { background, frame, mixed };

    static constexpr int kLines = 4;
    static constexpr int kStrips = 13;

    // A worker's scratch: lines at the grids' resolution, strips at the picture's.
    struct Memory {
        float *slope, *offset, *shift, *behind;
        float* alpha[2];
        float* chroma_alpha;
        float* chroma_shift[2];
        float* chroma_behind[2];
        float* pairs[3];  // two strips long: alpha, shift and background of U and V in turn
    };

    Memory slice(float* next) const {
        const auto take = [&](std::size_t size) { return std::exchange(next, next + size); };
        const auto line = [&] { return take(line_size_); };
        const auto strip = [&] { return take(kStrip); };
        return {line(), line(), line(), line(), {strip(), strip()}, strip(),
                {strip(), strip()}, {strip(), strip()}, {take(2 * kStrip), take(2 * kStrip),
                take(2 * kStrip)}};
    }

    // The least and greatest alpha that a row of coefficients can give in each segment.
    void bound_alpha(int row) {
        const std::size_t start = static_cast<std::size_t>(row) * job_.slope.width;
        const float* slope = job_.slope.data + start;
        const float* offset = job_.offset.data + start;
        const float dark = -job_.levels.black / job_.levels.luma_span;
        const float bright = (peak_ - job_.levels.black) / job_.levels.luma_span;
        float* bounds = alpha_bounds_.floats() + static_cast<std::size_t>(row) * segments_ * 2;
        for (int segment = 0; segment < segments_; ++segment, bounds += 2) {
            const Range under = coefficients_.under(luma_span(segment, segment));
            float low = 1, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
            for (int x = under.from; x < under.to; ++x) {
                const float a = slope[x] * dark + offset[x], b = slope[x] * bright + offset[x];
                low = smaller(low, smaller(a, b));
                high = larger(high, larger(a, b));
            }
            bounds[0] = larger(low, 0), bounds[1] = smaller(high, 1);
        }
    }

    // The greatest shift of any channel, either way, that a row can give in each segment.
    void bound_shift(int row) {
        const std::size_t area = static_cast<std::size_t>(job_.shift.height) * job_.shift.width;
        const float* shift = job_.shift.data + static_cast<std::size_t>(row) * job_.shift.width;
        float* bounds = shift_bounds_.floats() + static_cast<std::size_t>(row) * segments_;
        for (int segment = 0; segment < segments_; ++segment) {
            const Range luma = shift_.under(luma_span(segment, segment));
            const Range chroma = chroma_shift_.under(chroma_span(segment, segment));
            float bound = 0;
            for (int c = 0; c < 3; ++c) {
                const float* values = shift + c * area;
#pragma omp simd reduction(max : bound)
                for (int x = least(luma.from, chroma.from); x < most(luma.to, chroma.to); ++x)
                    bound = larger(bound, larger(values[x], -values[x]));
            }
            bounds[segment] = bound;
        }
    }

    Range luma_span(int first, int last) const {
        return {first * kSegment, least((last + 1) * kSegment, layout_.width)};
    }

    Range chroma_span(int first, int last) const {
        return {first * kSegment / across_,
                least((last + 1) * kSegment / across_, layout_.chroma_width)};
    }

    Range luma_rows(int unit) const {
        return {unit * down_, least((unit + 1) * down_, layout_.height)};
    }

    Cover cover(int unit, int segment) const {
        const Range rows = coefficients_.beside(luma_rows(unit));
        float low = 1, high = 0;
        for (int row = rows.from; row < rows.to; ++row) {
            const std::size_t at = static_cast<std::size_t>(row) * segments_ + segment;
            low = smaller(low, alpha_bounds_.floats()[2 * at]);
            high = larger(high, alpha_bounds_.floats()[2 * at + 1]);
        }
        // Half a code value, less a margin for the rounding of the blend itself.
        constexpr float unseen = 0.49f;
        if (high * peak_ < unseen) return Cover::background;
        if ((1 - low) * peak_ >= unseen) return Cover::mixed;
        return (1 - low) * peak_ + shift_bound(unit, segment) < unseen ? Cover::frame
                                                                        : Cover::mixed;
    }

    float shift_bound(int unit, int segment) const {
        if (!job_.shift.data) return 0;
        const Range luma = shift_.beside(luma_rows(unit));
        const Range chroma = chroma_shift_.beside({unit, unit + 1});
        float bound = 0;
        for (int row = least(luma.from, chroma.from); row < most(luma.to, chroma.to); ++row)
            bound = larger(bound, shift_bounds_.floats()[static_cast<std::size_t>(row) *
                                                         segments_ + segment]);
        return bound;
    }

    void run(int unit, const Memory& memory) const {
        for (int first = 0, next; first < segments_; first = next) {
            const Cover kind = cover(unit, first);
            const bool copied = kind == Cover::frame ||
                                (kind == Cover::background && !job_.small_background.data);
            const int end = copied ? segments_ : least(segments_, first + kReach / kSegment);
            next = first + 1;
            while (next < end && cover(unit, next) == kind) ++next;
            if (copied)
                copy(unit, first, next - 1, kind == Cover::frame);
            else
                mix(unit, luma_span(first, next - 1), chroma_span(first, next - 1), memory);
        }
    }

    const T* row(const Source& planes, int channel, int y) const {
        return reinterpret_cast<const T*>(planes.data[channel] + y * planes.stride[channel]);
    }

    T* out_row(int channel, int y) const {
        return reinterpret_cast<T*>(job_.out.data[channel] + y * job_.out.stride[channel]);
    }

    T* alpha_row(int y) const {
        return reinterpret_cast<T*>(job_.alpha + y * job_.alpha_stride);
    }

    void copy(int unit, int first, int last, bool from_frame) const {
        const Source& source = from_frame ? job_.frame : job_.background;
        const Range luma = luma_span(first, last), chroma = chroma_span(first, last);
        const auto copy_row = [&](int channel, int y, int from, int size) {
            std::memcpy(out_row(channel, y) + from, row(source, channel, y) + from,
                        sizeof(T) * size);
        };
        for (int y = luma_rows(unit).from; y < luma_rows(unit).to; ++y) {
            copy_row(0, y, luma.from, luma.size());
            if (job_.alpha) fill_alpha(y, luma, from_frame ? layout_.peak() : 0);
        }
        for (int channel = 1; channel < (layout_.interleaved ? 2 : 3); ++channel)
            copy_row(channel, unit, step_ * chroma.from, step_ * chroma.size());
    }

    void fill_alpha(int y, Range luma, int value) const {
        T* alpha = alpha_row(y) + luma.from;
        const T code = static_cast<T>(value);
        for (int x = 0; x < luma.size(); ++x) alpha[x] = code;
    }

    // The blend of a run of segments, row by row; also where a small background covers it all.
    void mix(int unit, Range luma, Range chroma, const Memory& memory) const {
        const Range rows = luma_rows(unit);
        for (int y = rows.from; y < rows.to; ++y) {
            prepare_luma(y, luma, memory);
            float* alpha = memory.alpha[y - rows.from];
            if (job_.shift.data)
                job_.small_background.data ? mix_luma<true, true>(y, luma, memory, alpha)
                                           : mix_luma<true, false>(y, luma, memory, alpha);
            else
                job_.small_background.data ? mix_luma<false, true>(y, luma, memory, alpha)
                                           : mix_luma<false, false>(y, luma, memory, alpha);
            alpha[luma.size()] = alpha[luma.size() - 1];  // beside the last one of an odd row
            if (job_.alpha) store_alpha(y, luma, alpha);
        }
        average_alpha(chroma.size(), memory.alpha[0], memory.alpha[rows.size() - 1],
                      memory.chroma_alpha);
        mix_chroma(unit, chroma, memory);
    }

    // The grids' lines at row y; the coefficients as they apply to code values.
    void prepare_luma(int y, Range span, const Memory& memory) const {
        coefficients_.line(job_.slope, 0, y, span, memory.slope);
        coefficients_.line(job_.offset, 0, y, span, memory.offset);
        fold_levels(coefficients_.under(span), memory.slope, memory.offset);
        if (job_.shift.data) shift_.line(job_.shift, 0, y, span, memory.shift);
        if (job_.small_background.data) behind_.line(job_.small_background, 0, y, span, memory.behind);
    }

    // slope * (code - black) / span + offset becomes slope * code + offset.
    void fold_levels(Range under, float* __restrict slope, float* __restrict offset) const {
        const float black = job_.levels.black, scale = 1 / job_.levels.luma_span;
        for (int x = under.from; x < under.to; ++x) {
            slope[x] *= scale;
            offset[x] -= slope[x] * black;
        }
    }

    template <bool Shifted, bool Small>
    void mix_luma(int y, Range span, const Memory& memory, float* alpha_out) const {
        const T* frame = row(job_.frame, 0, y) + span.from;
        const T* background = Small ? nullptr : row(job_.background, 0, y) + span.from;
        T* out = out_row(0, y) + span.from;
        const float peak = peak_;
        const int low_bits = low_bits_;
        for_lanes(span.size(), [&](auto v, int x) {
            const int at = span.from + x;
            const auto code = v.load(frame + x, low_bits);
            const auto alpha = v.clamp(v.fma(coefficients_.at(v, memory.slope, at), code,
                                             coefficients_.at(v, memory.offset, at)),
                                       v.set(0), v.set(1));
            v.store(alpha_out + x, alpha);
            auto near = code;
            if constexpr (Shifted)
                near = v.clamp(code + shift_.at(v, memory.shift, at), v.set(0), v.set(peak));
            auto far = near;
            if constexpr (Small)
                far = v.clamp(behind_.at(v, memory.behind, at), v.set(0), v.set(peak));
            else
                far = v.load(background + x, low_bits);
            v.store(out + x, v.fma(alpha, near - far, far) + v.set(0.5f), low_bits);
        });
    }

    void store_alpha(int y, Range span, const float* alpha) const {
        T* out = alpha_row(y) + span.from;
        const float peak = peak_;
        for_lanes(span.size(), [&](auto v, int x) {
            v.store(out + x, v.fma(v.load(alpha + x), v.set(peak), v.set(0.5f)), 0);
        });
    }

    // Alpha at the chroma samples, from the rows above and below (the same one if there is one).
    void average_alpha(int n, const float* above, const float* below,
                       float* __restrict alpha) const {
        if (across_ == 1)
            for (int x = 0; x < n; ++x) alpha[x] = 0.5f * (above[x] + below[x]);
        else
            for (int x = 0; x < n; ++x)
                alpha[x] = 0.25f * (above[2 * x] + above[2 * x + 1] + below[2 * x] +
                                    below[2 * x + 1]);
    }

    void mix_chroma(int unit, Range span, const Memory& memory) const {
        for (int c = 0; c < 2; ++c) {
            if (job_.shift.data) {
                chroma_shift_.line(job_.shift, c + 1, unit, span, memory.shift);
                chroma_shift_.spread(memory.shift, span, memory.chroma_shift[c]);
            }
            if (job_.small_background.data) {
                chroma_behind_.line(job_.small_background, c + 1, unit, span, memory.behind);
                chroma_behind_.spread(memory.behind, span, memory.chroma_behind[c]);
            }
        }
        if (layout_.interleaved) return mix_pairs(unit, span, memory);
        for (int c = 0; c < 2; ++c)
            blend_row(c + 1, unit, span, memory.chroma_alpha, memory.chroma_shift[c],
                      memory.chroma_behind[c]);
    }

    // One row of U and V in turn: the strips are interleaved like the samples.
    void mix_pairs(int unit, Range span, const Memory& memory) const {
        const int n = span.size();
        interleave(n, memory.chroma_alpha, memory.chroma_alpha, memory.pairs[0]);
        if (job_.shift.data)
            interleave(n, memory.chroma_shift[0], memory.chroma_shift[1], memory.pairs[1]);
        if (job_.small_background.data)
            interleave(n, memory.chroma_behind[0], memory.chroma_behind[1], memory.pairs[2]);
        blend_row(1, unit, {2 * span.from, 2 * span.to}, memory.pairs[0], memory.pairs[1],
                  memory.pairs[2]);
    }

    static void interleave(int n, const float* u, const float* v, float* __restrict out) {
        for (int x = 0; x < n; ++x) out[2 * x] = u[x], out[2 * x + 1] = v[x];
    }

    void blend_row(int channel, int y, Range span, const float* alpha, const float* shift,
                   const float* behind) const {
        const T* frame = row(job_.frame, channel, y) + span.from;
        T* out = out_row(channel, y) + span.from;
        const int low_bits = low_bits_;
        const bool shifted = job_.shift.data, small = job_.small_background.data;
        const T* background = small ? nullptr : row(job_.background, channel, y) + span.from;
        const float peak = peak_;
        for_lanes(span.size(), [&](auto v, int x) {
            auto near = v.load(frame + x, low_bits);
            if (shifted) near = v.clamp(near + v.load(shift + x), v.set(0), v.set(peak));
            const auto far = small ? v.clamp(v.load(behind + x), v.set(0), v.set(peak))
                                   : v.load(background + x, low_bits);
            v.store(out + x, v.fma(v.load(alpha + x), near - far, far) + v.set(0.5f), low_bits);
        });
    }

    const CompositeJob& job_;
    const Layout& layout_;
    const float peak_;
    const int low_bits_;
    const int step_;           // samples of a chroma row per chroma position
    const int down_, across_;  // luma samples a chroma sample covers
    const int segments_;
    const Placement coefficients_, shift_, chroma_shift_, behind_, chroma_behind_;
    const Buffer alpha_bounds_, shift_bounds_;
    const std::size_t line_size_, scratch_size_;
    const Buffer scratch_;
};

static void composite(const CompositeJob& job, int threads) {
    const int workers = least(threads, job.layout.height);
    if (job.layout.bits == 8)
        Compositor<std::uint8_t>(job, workers);
    else
        Compositor<std::uint16_t>(job, workers);
}

}  // namespace fusematte::FUSEMATTE_ISA
