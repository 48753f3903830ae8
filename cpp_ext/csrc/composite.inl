// One pass over the full-resolution planes.  The unit of work is a chroma row with its one or two
// luma rows, cut into segments.  Where the coefficients bound alpha so near 0 or 1 that every
// sample must round to the background's or the frame's, a segment is copied; elsewhere it is mixed
// in strips of floats that stay in the L1 cache.

namespace fusematte::FUSEMATTE_ISA {

constexpr int kSegment = 64;          // luma samples
constexpr int kReach = 8 * kSegment;  // mixed at once
constexpr int kStrip = kReach + kLanes;
constexpr int kAhead = 4;             // units between what is worked on and what is fetched
constexpr int kLinesAhead = 8;        // cache lines of each row that are fetched

struct Range {
    int from, to;
    int size() const { return to - from; }
};

// How grids of one size lie over the luma or the chroma samples.
struct Placement {
    Placement(const Grid& grid, int height, int width)
        : source{grid.height, grid.width},
          rows(grid.height, grid.data ? height : 0),
          columns(grid.width, grid.data ? width : 0) {}

    // The grid's columns that a range of samples lies between, at least one whole vector of them
    // where there are as many.
    Range under(Range span) const {
        const Range needed = between(columns, span, source.width);
        const int size = least(padded(needed.size()), source.width);
        const int from = least(needed.from, source.width - size);
        return {from, from + size};
    }

    // The grid's rows that a range of samples lies between.
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

    static Range between(const LinearTable& table, Range span, int size) {
        return {table.index[span.from], least(table.index[span.to - 1] + 2, size)};
    }

    struct {
        int height, width;
    } source;
    const LinearTable rows, columns;
};

// Lines of a grid at the height of rows of the picture, for the grid's columns `under`.
template <int N>
inline void interpolate(const Placement::Rows (&rows)[N], Range under, float* const (&lines)[N]) {
    for_lanes(under.size(), [=](auto v, int at) FUSEMATTE_INLINED {
        for (int i = 0; i < N; ++i) v.store(lines[i] + under.from + at, rows[i].at(v, under.from + at));
    });
}

template <class T>
class Compositor {
public:
    Compositor(const CompositeJob& job, int threads)
        : job_(job),
          layout_(job.layout),
          peak_(static_cast<float>(job.layout.peak())),
          fade_(fade(job.keep_solid, peak_)),
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
          alpha_marks_(static_cast<std::size_t>(segments_) * job.slope.height),
          shift_marks_(static_cast<std::size_t>(segments_) * job.shift.height),
          line_size_(padded(most(most(job.slope.width, job.shift.width),
                                 job.small_background.width)) + 2 * kLanes),
          scratch_size_(3 * kLines * line_size_ + (2 + kSampleStrips) * kStrip +
                        padded(segments_)),
          scratch_(sizeof(float) * scratch_size_ * threads) {
        for (int row = 0; row < job.slope.height; ++row) mark_alpha(row);
        for (int row = 0; shift_spreads() && row < job.shift.height; ++row) mark_shift(row);
        parallel(threads, layout_.chroma_height, [&](int worker, int begin, int end) {
            const Memory memory = slice(scratch_.floats() + scratch_size_ * worker);
            for (int unit = begin; unit < end; ++unit) run(unit, memory);
        });
    }

private:
    enum class Behind { full, small, nothing };

    // What keeps a segment from being copied.
    using Marks = std::uint8_t;
    static constexpr Marks kNotBackground = 1, kNotFrame = 2;
    // Half a code value, less a margin for the rounding of the blend itself; for the frame's
    // samples alpha and shift have half of it each.
    static constexpr float kUnseen = 0.49f;

    static constexpr int kLines = 4, kSampleStrips = 6;

    // A worker's scratch: lines at a grid's resolution, strips at the picture's.
    struct Memory {
        float* coefficients[kLines];  // slope, offset of the upper luma row, and of the lower one
        float *shift[kLines], *behind[kLines];  // of the two luma rows, U and V
        float* alpha[2];                        // of the two luma rows
        T* samples[kSampleStrips];  // of U and V that alternate in memory, put apart
        Marks* marks;               // of one unit's segments
    };

    Memory slice(float* next) const {
        const auto take = [&](std::size_t size) { return std::exchange(next, next + size); };
        Memory memory{};
        for (auto lines : {memory.coefficients, memory.shift, memory.behind})
            for (int i = 0; i < kLines; ++i) lines[i] = take(line_size_);
        for (float*& strip : memory.alpha) strip = take(kStrip);
        for (T*& strip : memory.samples) strip = reinterpret_cast<T*>(take(kStrip));
        memory.marks = reinterpret_cast<Marks*>(next);
        return memory;
    }

    // What the alphas allow that a row of coefficients can give in each segment.
    void mark_alpha(int row) {
        const std::size_t start = static_cast<std::size_t>(row) * job_.slope.width;
        const float* slope = job_.slope.data + start;
        const float* offset = job_.offset.data + start;
        const float dark = -job_.levels.black / job_.levels.luma_span;
        const float bright = (peak_ - job_.levels.black) / job_.levels.luma_span;
        const float low = kUnseen / peak_;
        const float high = 1 - (shift_spreads() ? kUnseen / 2 : kUnseen) / peak_;
        Marks* marks = alpha_marks_.bytes() + static_cast<std::size_t>(row) * segments_;
        for (int segment = 0; segment < segments_; ++segment) {
            const Range under = coefficients_.under(luma_span(segment, segment));
            unsigned visible = 0, thin = 0;
            for_lanes(under.size(), [&](auto v, int x) {
                const auto a = v.load(slope + under.from + x), b = v.load(offset + under.from + x);
                const auto first = v.fma(a, v.set(dark), b), second = v.fma(a, v.set(bright), b);
                visible |= v.above(v.max(first, second), v.set(low));
                thin |= v.above(v.set(high), v.min(first, second));
            });
            marks[segment] = (visible ? kNotBackground : 0) | (thin ? kNotFrame : 0);
        }
    }

    // Where a row of any channel's shift may be seen.
    void mark_shift(int row) {
        const std::size_t area = static_cast<std::size_t>(job_.shift.height) * job_.shift.width;
        const float* shift = job_.shift.data + static_cast<std::size_t>(row) * job_.shift.width;
        Marks* marks = shift_marks_.bytes() + static_cast<std::size_t>(row) * segments_;
        for (int segment = 0; segment < segments_; ++segment) {
            const Range luma = shift_.under(luma_span(segment, segment));
            const Range chroma = chroma_shift_.under(chroma_span(segment, segment));
            const Range under = {least(luma.from, chroma.from), most(luma.to, chroma.to)};
            unsigned visible = 0;
            for_lanes(under.size(), [&](auto v, int x) {
                const auto bound = v.set(kUnseen / 2);
                for (int c = 0; c < 3; ++c) {
                    const auto value = v.load(shift + c * area + under.from + x);
                    visible |= v.above(v.max(value, v.set(0) - value), bound);
                }
            });
            marks[segment] = visible ? kNotFrame : 0;
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

    void mark_unit(int unit, Marks* marks) const {
        std::memset(marks, 0, segments_);
        collect(alpha_marks_, coefficients_.beside(luma_rows(unit)), marks);
        if (!shift_spreads()) return;
        const Range luma = shift_.beside(luma_rows(unit));
        const Range chroma = chroma_shift_.beside({unit, unit + 1});
        collect(shift_marks_, {least(luma.from, chroma.from), most(luma.to, chroma.to)}, marks);
    }

    void collect(const Buffer& source, Range rows, Marks* __restrict marks) const {
        for (int row = rows.from; row < rows.to; ++row) {
            const Marks* line = source.bytes() + static_cast<std::size_t>(row) * segments_;
            for (int segment = 0; segment < segments_; ++segment) marks[segment] |= line[segment];
        }
    }

    void run(int unit, const Memory& memory) const {
        const Marks* marks = memory.marks;
        mark_unit(unit, memory.marks);
        for (int first = 0, next; first < segments_; first = next) {
            const bool background = !(marks[first] & kNotBackground) && full();
            const bool frame = !(marks[first] & kNotFrame);
            const int end = background || frame ? segments_
                                                : least(segments_, first + kReach / kSegment);
            next = first + 1;
            while (next < end && marks[next] == marks[first]) ++next;
            fetch(unit + kAhead, first, next - 1, frame || !background, !frame && full());
            if (background || frame) {
                copy(unit, first, next - 1, frame);
            } else {
                mix(unit, luma_span(first, next - 1), chroma_span(first, next - 1), memory);
            }
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

    // Asks for the first bytes of what a later unit will most likely read: runs are too short for
    // the processor to see them coming.
    void fetch(int unit, int first, int last, bool frame, bool background) const {
        if (unit >= layout_.chroma_height) return;
        const Range luma = luma_span(first, last), chroma = chroma_span(first, last);
        constexpr int line = 64 / static_cast<int>(sizeof(T));
        const auto fetch_row = [&](int channel, int y, int from, int size) {
            const int end = from + least(size, kLinesAhead * line);
            for (int x = from; x < end; x += line) {
                if (frame) prefetch(row(job_.frame, channel, y) + x);
                if (background) prefetch(row(job_.background, channel, y) + x);
            }
        };
        for (int y = luma_rows(unit).from; y < luma_rows(unit).to; ++y)
            fetch_row(0, y, luma.from, luma.size());
        for (int channel = 1; channel < planes(); ++channel)
            fetch_row(channel, unit, step_ * chroma.from, step_ * chroma.size());
    }

    void copy(int unit, int first, int last, bool from_frame) const {
        const Source& source = from_frame ? job_.frame : job_.background;
        const Range luma = luma_span(first, last), chroma = chroma_span(first, last);
        const auto copy_row = [&](int channel, int y, int from, int size) {
            copy_bytes(out_row(channel, y) + from, row(source, channel, y) + from,
                       sizeof(T) * size);
        };
        for (int y = luma_rows(unit).from; y < luma_rows(unit).to; ++y) {
            copy_row(0, y, luma.from, luma.size());
            if (job_.alpha) fill_alpha(y, luma, from_frame ? layout_.peak() : 0);
        }
        for (int channel = 1; channel < planes(); ++channel)
            copy_row(channel, unit, step_ * chroma.from, step_ * chroma.size());
    }

    void fill_alpha(int y, Range luma, int value) const {
        T* alpha = alpha_row(y) + luma.from;
        const T code = static_cast<T>(value);
        for (int x = 0; x < luma.size(); ++x) alpha[x] = code;
    }

    // The blend of a run of segments; also where a small background covers it all.
    void mix(int unit, Range luma, Range chroma, const Memory& memory) const {
        const Range rows = luma_rows(unit);
        const int upper = rows.from, lower = rows.to - 1;  // the same one where there is one
        interpolate({coefficients_.around(job_.slope, 0, upper),
                     coefficients_.around(job_.offset, 0, upper),
                     coefficients_.around(job_.slope, 0, lower),
                     coefficients_.around(job_.offset, 0, lower)},
                    coefficients_.under(luma), memory.coefficients);
        if (small())
            colors(behind_, chroma_behind_, job_.small_background, unit, luma, chroma,
                   memory.behind);
        if (shifted()) {
            colors(shift_, chroma_shift_, job_.shift, unit, luma, chroma, memory.shift);
            mix<true>(unit, luma, chroma, memory);
        } else {
            mix<false>(unit, luma, chroma, memory);
        }
    }

    // The lines of a grid of colours for the luma rows and for U and V.
    void colors(const Placement& luma_placement, const Placement& chroma_placement,
                const Grid& grid, int unit, Range luma, Range chroma,
                float* const (&lines)[kLines]) const {
        const Range rows = luma_rows(unit);
        const Range a = luma_placement.under(luma), b = chroma_placement.under(chroma);
        interpolate({luma_placement.around(grid, 0, rows.from),
                     luma_placement.around(grid, 0, rows.to - 1),
                     chroma_placement.around(grid, 1, unit), chroma_placement.around(grid, 2, unit)},
                    {least(a.from, b.from), most(a.to, b.to)}, lines);
    }

    template <bool Shift>
    void mix(int unit, Range luma, Range chroma, const Memory& memory) const {
        small()  ? mix<Shift, Behind::small>(unit, luma, chroma, memory)
        : full() ? mix<Shift, Behind::full>(unit, luma, chroma, memory)
                 : mix<Shift, Behind::nothing>(unit, luma, chroma, memory);
    }

    template <bool Shift, Behind B>
    void mix(int unit, Range luma, Range chroma, const Memory& memory) const {
        const Range rows = luma_rows(unit);
        if (rows.size() == 2)
            mix_luma<Shift, B, 2>(rows, luma, memory);
        else
            mix_luma<Shift, B, 1>(rows, luma, memory);
        for (int y = rows.from; job_.alpha && y < rows.to; ++y)
            store_alpha(y, luma, memory.alpha[y - rows.from]);
        if (layout_.interleaved)
            mix_pairs<Shift, B>(unit, chroma, memory);
        else
            mix_chroma<Shift, B>(unit, chroma, samples(1, unit, chroma.from),
                                     samples(2, unit, chroma.from), memory);
    }

    // One channel's samples of a run of one row.
    struct Samples {
        const T *frame, *background;
        T* out;

        // background + alpha * (frame + shift - background); `far` stands in for the background.
        template <bool Shift, Behind B, class V>
        FUSEMATTE_INLINED void mix(V v, int x, typename V::Vec alpha, typename V::Vec code,
                                   typename V::Vec shift, typename V::Vec far, const Fade& fade,
                                   float peak, int low_bits) const {
            if constexpr (Shift) {
                const auto share = v.fma(alpha, v.set(-fade.slope), v.set(fade.start));
                code = clamp(v, v.fma(clamp(v, share, 0, 1), shift, code), 0, peak);
            }
            if constexpr (B == Behind::small) far = clamp(v, far, 0, peak);
            if constexpr (B == Behind::full) far = v.load(background + x, low_bits);
            if constexpr (B != Behind::nothing) code = v.fma(alpha, code - far, far);
            v.store(out + x, code + v.set(0.5f), low_bits);
        }
    };

    Samples samples(int channel, int y, int from) const {
        return {row(job_.frame, channel, y) + from,
                !full() ? nullptr : row(job_.background, channel, y) + from,
                out_row(channel, y) + from};
    }

    template <bool Shift, Behind B, int Rows>
    void mix_luma(Range rows, Range span, const Memory& memory) const {
        Samples lines[Rows];
        for (int r = 0; r < Rows; ++r) lines[r] = samples(0, rows.from + r, span.from);
        const Memory m = memory;
        const Columns at(coefficients_, span), shift_at(shift_, span), far_at(behind_, span);
        const float peak = peak_, scale = 1 / job_.levels.luma_span;
        const float black = -job_.levels.black * scale;
        const Fade fade = fade_;
        const int low_bits = low_bits_;
        for_lanes(span.size(), [=](auto v, int x) FUSEMATTE_INLINED {
            const auto place = at(v, x);
            auto shift_place = place, far_place = place;
            if constexpr (Shift) shift_place = shift_at(v, x);
            if constexpr (B == Behind::small) far_place = far_at(v, x);
            for (int r = 0; r < Rows; ++r) {
                const auto code = v.load(lines[r].frame + x, low_bits);
                const auto luma = v.fma(code, v.set(scale), v.set(black));
                const auto slope = v.lookup(m.coefficients[2 * r], place);
                const auto offset = v.lookup(m.coefficients[2 * r + 1], place);
                const auto mixed = clamp(v, v.fma(slope, luma, offset), 0, 1);
                const auto alpha = v.replace_from(mixed, v.set(fade.solid), v.set(1));
                v.store(m.alpha[r] + x, alpha);
                auto shift = code, far = code;
                if constexpr (Shift) shift = v.lookup(m.shift[r], shift_place);
                if constexpr (B == Behind::small) far = v.lookup(m.behind[r], far_place);
                lines[r].template mix<Shift, B>(v, x, alpha, code, shift, far, fade, peak,
                                                low_bits);
            }
        });
        for (int r = 0; r < Rows; ++r)  // beside the last one of an odd row
            m.alpha[r][span.size()] = m.alpha[r][span.size() - 1];
    }

    // The table's entries for the samples of a span.
    struct Columns {
        const int* index;
        const float* fraction;
        bool near;

        Columns(const Placement& placement, Range span)
            : index(placement.columns.index + span.from),
              fraction(placement.columns.fraction + span.from),
              near(placement.columns.near) {}

        template <class V>
        typename V::Place operator()(V v, int x) const {
            return v.place(index + x, fraction + x, near);
        }
    };

    void store_alpha(int y, Range span, const float* alpha) const {
        T* out = alpha_row(y) + span.from;
        const float peak = peak_;
        for_lanes(span.size(), [=](auto v, int x) {
            v.store(out + x, v.fma(v.load(alpha + x), v.set(peak), v.set(0.5f)), 0);
        });
    }

    // Alpha at the chroma samples comes from the rows above and below.
    template <bool Shift, Behind B>
    void mix_chroma(int unit, Range span, Samples u, Samples v_samples, const Memory& memory) const {
        const Memory m = memory;
        const float* above = m.alpha[0];
        const float* below = m.alpha[luma_rows(unit).size() - 1];
        const Samples channels[2] = {u, v_samples};
        const Columns shift_at(chroma_shift_, span), far_at(chroma_behind_, span);
        const float peak = peak_;
        const Fade fade = fade_;
        const int low_bits = low_bits_;
        const bool pairs = across_ == 2;
        for_lanes(span.size(), [=](auto v, int x) FUSEMATTE_INLINED {
            const auto alpha =
                pairs ? (v.sum_pairs(above + 2 * x) + v.sum_pairs(below + 2 * x)) * v.set(0.25f)
                      : (v.load(above + x) + v.load(below + x)) * v.set(0.5f);
            typename decltype(v)::Place shift_place{}, far_place{};
            if constexpr (Shift) shift_place = shift_at(v, x);
            if constexpr (B == Behind::small) far_place = far_at(v, x);
            for (int c = 0; c < 2; ++c) {
                const auto code = v.load(channels[c].frame + x, low_bits);
                auto shift = code, far = code;
                if constexpr (Shift) shift = v.lookup(m.shift[2 + c], shift_place);
                if constexpr (B == Behind::small) far = v.lookup(m.behind[2 + c], far_place);
                channels[c].template mix<Shift, B>(v, x, alpha, code, shift, far, fade, peak,
                                                   low_bits);
            }
        });
    }

    // U and V that alternate, put apart and together again.
    template <bool Shift, Behind B>
    void mix_pairs(int unit, Range span, const Memory& memory) const {
        const Samples pairs = samples(1, unit, 2 * span.from);
        T* const* strips = memory.samples;
        Samples parts[2];
        for (int c = 0; c < 2; ++c)
            parts[c] = {strips[c], !full() ? nullptr : strips[2 + c], strips[4 + c]};
        put_apart(span.size(), pairs.frame, strips[0], strips[1]);
        if (full()) put_apart(span.size(), pairs.background, strips[2], strips[3]);
        mix_chroma<Shift, B>(unit, span, parts[0], parts[1], memory);
        put_together(span.size(), strips[4], strips[5], pairs.out);
    }

    static void put_apart(int n, const T* pairs, T* __restrict u, T* __restrict v) {
        for (int x = 0; x < n; ++x) u[x] = pairs[2 * x], v[x] = pairs[2 * x + 1];
    }

    static void put_together(int n, const T* u, const T* v, T* __restrict pairs) {
        for (int x = 0; x < n; ++x) pairs[2 * x] = u[x], pairs[2 * x + 1] = v[x];
    }

    bool shifted() const { return job_.shift.data; }
    // Whether it also changes samples under full alpha.
    bool shift_spreads() const { return shifted() && !job_.keep_solid; }
    bool small() const { return job_.small_background.data; }
    bool full() const { return job_.background.data[0]; }
    int planes() const { return layout_.interleaved ? 2 : 3; }

    const CompositeJob& job_;
    const Layout& layout_;
    const float peak_;
    const Fade fade_;
    const int low_bits_;
    const int step_;           // samples of a chroma row per chroma position
    const int down_, across_;  // luma samples a chroma sample covers
    const int segments_;
    const Placement coefficients_, shift_, chroma_shift_, behind_, chroma_behind_;
    const Buffer alpha_marks_, shift_marks_;
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
