// Pictures moved along an optical flow, and a matte made of two that were moved to one frame.

namespace fusematte::FUSEMATTE_ISA {

inline float distance(float a, float b) { return a > b ? a - b : b - a; }

// Where the pixels of a row are in another picture: the flow, interpolated to the picture's size,
// added to their own places, and clamped to the picture.
class Places {
public:
    Places(const MoveJob& job, const LinearTable& rows, const LinearTable& columns)
        : job_(job),
          rows_(rows),
          columns_(columns),
          flow_line_(padded(job.flow_width) + kLanes),
          floats_(sizeof(float) * 2 * (flow_line_ + padded(job.width))),
          offsets_(sizeof(int) * padded(job.width)) {}

    void find(int y) {
        float *const to_right = floats_.floats(), *const to_bottom = to_right + flow_line_;
        const float fraction = rows_.fraction[y];
        const int upper = rows_.index[y], lower = least(upper + 1, job_.flow_height - 1);
        const float* one = job_.flow + std::size_t(2) * upper * job_.flow_width;
        const float* other = job_.flow + std::size_t(2) * lower * job_.flow_width;
        for (int i = 0; i < job_.flow_width; ++i) {
            to_right[i] = blend(other[2 * i], one[2 * i], fraction);
            to_bottom[i] = blend(other[2 * i + 1], one[2 * i + 1], fraction);
        }
        float *const right = across(), *const below = down();
        for_lanes(job_.width, [&](auto v, int x) FUSEMATTE_INLINED {
            using V = decltype(v);
            const auto place = V::place(columns_.index + x, columns_.fraction + x, columns_.near);
            V::store(right + x, V::lookup(to_right, place));
            V::store(below + x, V::lookup(to_bottom, place));
        });
        const int height = job_.height, width = job_.width;
        const float wider = static_cast<float>(width) / static_cast<float>(job_.flow_width);
        const float higher = static_cast<float>(height) / static_cast<float>(job_.flow_height);
        const float last_x = static_cast<float>(width - 1);
        const float last_y = static_cast<float>(height - 1);
        const int last_column = most(width - 2, 0), last_row = most(height - 2, 0);
        int* const offset = offsets();
        FUSEMATTE_INDEPENDENT
        for (int x = 0; x < width; ++x) {
            const float at_x = clamp(static_cast<float>(x) + wider * right[x], 0.0f, last_x);
            const float at_y = clamp(static_cast<float>(y) + higher * below[x], 0.0f, last_y);
            const int column = least(static_cast<int>(at_x), last_column);
            const int row = least(static_cast<int>(at_y), last_row);
            offset[x] = row * width + column;
            right[x] = at_x - static_cast<float>(column);
            below[x] = at_y - static_cast<float>(row);
        }
    }

    // Of each pixel of the row that was found last: the pixel left above its place, counted from
    // the first, and how far from there it lies to the right and down.
    int* offsets() const { return reinterpret_cast<int*>(offsets_.bytes()); }
    float* across() const { return floats_.floats() + 2 * flow_line_; }
    float* down() const { return across() + padded(job_.width); }

private:
    const MoveJob& job_;
    const LinearTable &rows_, &columns_;
    const int flow_line_;  // lookup reads past the end of a row what has no weight
    const Buffer floats_, offsets_;
};

template <int Channels>
void move_rows(const MoveJob& job, Places& places, int begin, int end) {
    const int width = job.width;
    const std::size_t area = static_cast<std::size_t>(job.height) * width;
    const std::ptrdiff_t right = width > 1 ? Channels : 0;
    const std::ptrdiff_t below = job.height > 1 ? std::ptrdiff_t(Channels) * width : 0;
    const Buffer memory(sizeof(float) * Channels * padded(width));
    float* const pixels = memory.floats();  // of a row, their channels side by side
    const int* const offsets = places.offsets();
    const float *const to_right = places.across(), *const to_bottom = places.down();
    for (int y = begin; y < end; ++y) {
        places.find(y);
        for (int x = 0; x < width; ++x) {
            const float* at = job.planes + std::ptrdiff_t(Channels) * offsets[x];
            const float across = to_right[x], down = to_bottom[x];
            float moved[Channels];
            for (int c = 0; c < Channels; ++c) {
                const float upper = blend(at[right + c], at[c], across);
                const float lower = blend(at[below + right + c], at[below + c], across);
                moved[c] = blend(lower, upper, down);
            }
            std::memcpy(pixels + Channels * x, moved, sizeof moved);
        }
        float* const out = job.out + static_cast<std::size_t>(y) * width;
        FUSEMATTE_INDEPENDENT
        for (int x = 0; x < width; ++x)
            for (int c = 0; c < Channels; ++c) out[c * area + x] = pixels[Channels * x + c];
    }
}

static void move(const MoveJob& job, int threads) {
    const LinearTable rows(job.flow_height, job.height), columns(job.flow_width, job.width);
    parallel(least(threads, job.height), job.height, [&](int, int begin, int end) {
        Places places(job, rows, columns);
        switch (job.channels) {
            case 1: return move_rows<1>(job, places, begin, end);
            case 2: return move_rows<2>(job, places, begin, end);
            default: return move_rows<4>(job, places, begin, end);
        }
    });
}

// Whole: of F and B as well, else of alpha alone.
template <bool Whole>
struct Blending {
    static constexpr int maps = Whole ? 3 : 1;

    const BlendMovedJob& job;
    const std::size_t area;

    // Marks the pixels of a row at which the mattes differ.
    void mark(int y, std::uint8_t* __restrict marks) const {
        const std::size_t row = static_cast<std::size_t>(y) * job.width;
        for (int k = 0; k < maps; ++k) {
            const float *one = job.first + k * area + row, *other = job.second + k * area + row;
            for (int x = 0; x < job.width; ++x) marks[x] |= distance(one[x], other[x]) > kSolid;
        }
    }

    // share: of the second matte.
    void mix(std::size_t at, float share, float conflict) const {
        float mixed[maps];
        for (int k = 0; k < maps; ++k)
            mixed[k] = blend(job.second[k * area + at], job.first[k * area + at], share);
        job.alpha[at] = mixed[0];
        if constexpr (Whole) {
            const float gap = mixed[1] + mixed[2] - 1;
            const float beta = clamp((mixed[0] + mixed[2] - 1) / gap, 0.0f, 1.0f);
            job.foreground[at] = mixed[1];
            job.background[at] = mixed[2];
            job.beta[at] = gap == 0 ? 0.5f : beta;
        }
        job.conflict[at] = conflict;
    }

    void operator()(int threads) const {
        const float* const one_luma = job.first + maps * area;
        const float* const other_luma = job.second + maps * area;
        const float* const luma = job.luma;
        const float noise = job.noise, unfit = job.unfit;
        const int width = job.width;
        Marks differ(job.height, width);
        for (int y = 0; y < job.height; ++y) mark(y, differ[y]);
        FUSEMATTE_INDEPENDENT
        for (std::size_t at = 0; at < area; ++at) mix(at, 0.5f, 0.0f);
        box_means<2>(
            job.height, width, job.radius, threads, differ,
            [=](int y, int x, double* q) {
                const std::size_t at = static_cast<std::size_t>(y) * width + x;
                q[0] = distance(one_luma[at], luma[at]);
                q[1] = distance(other_luma[at], luma[at]);
            },
            [=, &differ, this](int y, int x, const double* misfit) {
                if (!differ[y][x]) return;
                const std::size_t at = static_cast<std::size_t>(y) * width + x;
                const auto one = static_cast<float>(misfit[0]);
                const auto other = static_cast<float>(misfit[1]);
                const float share = (one + noise) / (one + other + 2 * noise);
                const float conflict = distance(job.first[at], job.second[at]);
                mix(at, share, one > unfit && other > unfit ? conflict : 0.0f);
            });
    }
};

// Of two mattes that were moved to one frame; where they differ, the more of each the less the
// other's picture fits.
static void blend_moved(const BlendMovedJob& job, int threads) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    job.beta ? Blending<true>{job, area}(threads) : Blending<false>{job, area}(threads);
}

}  // namespace fusematte::FUSEMATTE_ISA
