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

    // The two rows of a channel that row y lies between.
    struct Rows {
        const float *upper, *lower;
        float fraction;

        template <class V>
        typename V::Vec at(V, int x) const {
            const auto above = V::load(upper + x);
            return V::fma(V::set(fraction), V::load(lower + x) - above, above);
        }
    };

    Rows around(const Grid& grid, int channel, int y) const {
        const std::size_t row = static_cast<std::size_t>(channel) * grid.height + rows.index[y];
        const float* upper = grid.data + row * grid.width;
        return {upper, rows.index[y] + 1 < grid.height ? upper + grid.width : upper,
                rows.fraction[y]};
    }

    // One channel, interpolated down to row y, for the columns under the span.
    void line(const Grid& grid, int channel, int y, Range span, float* out) const {
        const Rows values = around(grid, channel, y);
        const Range needed = under(span);
        for_lanes(needed.size(), [&](auto v, int x) {
            v.store(out + needed.from + x, values.at(v, needed.from + x));
        });
    }

    // A line at sample x.
    template <class V>
    typename V::Vec at(V, const float* values, int x) const {
        return V::lookup(values, columns.index + x, columns.fraction + x, columns.near);
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
    static constexpr int kStrips = 11;

    // A worker's scratch: lines at the grids' resolution, strips at the picture's.
    struct Memory {
        float *slope, *offset, *shift, *behind;
        float* alpha[2];
        float* chroma_alpha;
        float* chroma[2];
        float* pairs[3];  // two strips long: alpha, shift and background of U and V in turn
    };

    Memory slice(float* next) const {
        const auto take = [&](std::size_t size) { return std::exchange(next, next + size); };
        const auto line = [&] { return take(line_size_); };
        const auto strip = [&] { return take(kStrip); };
        const auto pair = [&] { return take(2 * kStrip); };
        return {line(), line(), line(), line(), {strip(), strip()}, strip(),
                {strip(), strip()}, {pair(), pair(), pair()}};
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
            for_lanes(under.size(), [&](auto v, int x) {
                const auto a = v.load(slope + under.from + x), b = v.load(offset + under.from + x);
                const auto first = v.fma(a, v.set(dark), b), second = v.fma(a, v.set(bright), b);
                low = smaller(low, v.least(v.min(first, second)));
                high = larger(high, v.most(v.max(first, second)));
            });
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
            const Range under = {least(luma.from, chroma.from), most(luma.to, chroma.to)};
            float bound = 0;
            for_lanes(under.size(), [&](auto v, int x) {
                auto most = v.set(0);
                for (int c = 0; c < 3; ++c) {
                    const auto value = v.load(shift + c * area + under.from + x);
                    most = v.max(most, v.max(value, v.set(0) - value));
                }
                bound = larger(bound, v.most(most));
            });
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
                                (kind == Cover::background && !small());
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
        for (int y = rows.from; y < rows.to; ++y) mix_luma(y, luma, memory, y - rows.from);
        average_alpha(chroma.size(), memory.alpha[0], memory.alpha[rows.size() - 1],
                      memory.chroma_alpha);
        if (layout_.interleaved) return mix_pairs(unit, chroma, memory);
        for (int c = 0; c < 2; ++c) mix_chroma(unit, c + 1, chroma, memory);
    }

    void mix_luma(int y, Range span, const Memory& memory, int row_of_unit) const {
        coefficient_lines(y, span, memory.slope, memory.offset);
        if (shifted()) shift_.line(job_.shift, 0, y, span, memory.shift);
        if (small()) behind_.line(job_.small_background, 0, y, span, memory.behind);
        float* kept = memory.alpha[row_of_unit];
        blend_row(
            0, y, span,
            [&](auto v, int x, auto code) {
                const auto slope = coefficients_.at(v, memory.slope, span.from + x);
                const auto offset = coefficients_.at(v, memory.offset, span.from + x);
                const auto alpha = clamp(v, v.fma(slope, code, offset), 0, 1);
                v.store(kept + x, alpha);
                return alpha;
            },
            [&](auto v, int x) { return shift_.at(v, memory.shift, span.from + x); },
            [&](auto v, int x) { return behind_.at(v, memory.behind, span.from + x); });
        kept[span.size()] = kept[span.size() - 1];  // beside the last one of an odd row
        if (job_.alpha) store_alpha(y, span, kept);
    }

    // slope * (code - black) / span + offset, as slope * code + offset.
    void coefficient_lines(int y, Range span, float* slope, float* offset) const {
        const auto slopes = coefficients_.around(job_.slope, 0, y);
        const auto offsets = coefficients_.around(job_.offset, 0, y);
        const Range under = coefficients_.under(span);
        const float scale = 1 / job_.levels.luma_span, black = job_.levels.black;
        for_lanes(under.size(), [&](auto v, int at) {
            const int x = under.from + at;
            const auto scaled = slopes.at(v, x) * v.set(scale);
            v.store(slope + x, scaled);
            v.store(offset + x, v.fma(scaled, v.set(-black), offsets.at(v, x)));
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
    void average_alpha(int n, const float* above, const float* below, float* alpha) const {
        if (across_ == 1)
            for_lanes(n, [&](auto v, int x) {
                v.store(alpha + x, (v.load(above + x) + v.load(below + x)) * v.set(0.5f));
            });
        else
            for_lanes(n, [&](auto v, int x) {
                const auto sum = v.sum_pairs(above + 2 * x) + v.sum_pairs(below + 2 * x);
                v.store(alpha + x, sum * v.set(0.25f));
            });
    }

    void mix_chroma(int unit, int channel, Range span, const Memory& memory) const {
        if (shifted()) chroma_shift_.line(job_.shift, channel, unit, span, memory.shift);
        if (small()) chroma_behind_.line(job_.small_background, channel, unit, span, memory.behind);
        blend_row(
            channel, unit, span,
            [&](auto v, int x, auto) { return v.load(memory.chroma_alpha + x); },
            [&](auto v, int x) { return chroma_shift_.at(v, memory.shift, span.from + x); },
            [&](auto v, int x) { return chroma_behind_.at(v, memory.behind, span.from + x); });
    }

    // One row of U and V in turn, after alpha, shift and background in turn.
    void mix_pairs(int unit, Range span, const Memory& memory) const {
        const int n = span.size();
        interleave(n, memory.chroma_alpha, memory.chroma_alpha, memory.pairs[0]);
        if (shifted()) spread_pairs(chroma_shift_, job_.shift, unit, span, memory, memory.pairs[1]);
        if (small())
            spread_pairs(chroma_behind_, job_.small_background, unit, span, memory,
                         memory.pairs[2]);
        blend_row(
            1, unit, {2 * span.from, 2 * span.to},
            [&](auto v, int x, auto) { return v.load(memory.pairs[0] + x); },
            [&](auto v, int x) { return v.load(memory.pairs[1] + x); },
            [&](auto v, int x) { return v.load(memory.pairs[2] + x); });
    }

    void spread_pairs(const Placement& placement, const Grid& grid, int unit, Range span,
                      const Memory& memory, float* out) const {
        for (int c = 0; c < 2; ++c) {
            placement.line(grid, c + 1, unit, span, memory.shift);
            for_lanes(span.size(), [&](auto v, int x) {
                v.store(memory.chroma[c] + x, placement.at(v, memory.shift, span.from + x));
            });
        }
        interleave(span.size(), memory.chroma[0], memory.chroma[1], out);
    }

    static void interleave(int n, const float* u, const float* v, float* __restrict out) {
        for (int x = 0; x < n; ++x) out[2 * x] = u[x], out[2 * x + 1] = v[x];
    }

    bool shifted() const { return job_.shift.data; }
    bool small() const { return job_.small_background.data; }

    // background + alpha * (frame + shift - background) for a run of samples of one row.
    template <class Alpha, class Shift, class Behind>
    void blend_row(int channel, int y, Range span, const Alpha& alpha, const Shift& shift,
                   const Behind& behind) const {
        const bool with_shift = shifted(), with_small = small();
        const T* frame = row(job_.frame, channel, y) + span.from;
        const T* background = with_small ? nullptr : row(job_.background, channel, y) + span.from;
        T* out = out_row(channel, y) + span.from;
        const float peak = peak_;
        const int low_bits = low_bits_;
        for_lanes(span.size(), [&](auto v, int x) {
            const auto code = v.load(frame + x, low_bits);
            const auto opacity = alpha(v, x, code);
            auto near = code;
            if (with_shift) near = clamp(v, code + shift(v, x), 0, peak);
            const auto far = with_small ? clamp(v, behind(v, x), 0, peak)
                                        : v.load(background + x, low_bits);
            v.store(out + x, v.fma(opacity, near - far, far) + v.set(0.5f), low_bits);
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
