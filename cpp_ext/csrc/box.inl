// Kernels made of box means: the guided filter and the blur-fusion foreground estimate.

namespace fusematte::FUSEMATTE_ISA {

inline int least(int a, int b) { return a < b ? a : b; }
inline int most(int a, int b) { return a > b ? a : b; }

// Doubles from one line of scratch to the next: never a whole page, which would bring all lines'
// samples at one x into the same set of the cache.
constexpr int box_line(int width) { return padded(width) | 8; }

// Sums along a row of quantity k over the window at x: of three samples...
struct SumsOfThree {
    const double* columns;  // from a zero left of the first one on
    int stride;

    double operator()(int k, int x) const {
        const double* window = columns + k * stride + x;
        return window[0] + window[1] + window[2];
    }
};

// ... and of more, which would cost more than the difference of two running sums.
struct RunningSums {
    const double* sums;  // of the columns left of x - radius
    int stride, window;

    double operator()(int k, int x) const {
        const double* left = sums + k * stride + x;
        return left[window] - left[0];
    }
};

// Every pixel of a row.
struct Everywhere {
    int width;

    template <class Work>
    void runs(int, const Work& work) const {
        work(0, width);
    }
};

// The pixels of a picture that something is to be computed for; most of a matte is solid, where
// nothing is.
class Marks {
public:
    Marks(int height, int width)
        : height_(height),
          width_(width),
          stride_(padded(width)),
          bytes_(static_cast<std::size_t>(height) * stride_) {}

    // What has a mark of another picture in the (2 radius + 1)^2 window around it.
    Marks(const Marks& marks, int radius) : Marks(marks.height_, marks.width_) {
        const Buffer memory(static_cast<std::size_t>(stride_) + 2 * radius);
        std::uint8_t* const columns = memory.bytes() + radius;  // between zeros
        for (int y = 0; y < height_; ++y) {
            std::memset(columns, 0, width_);
            for (int v = most(0, y - radius); v <= least(height_ - 1, y + radius); ++v)
                add(marks[v], columns, width_);
            for (int shift = -radius; shift <= radius; ++shift)
                add(columns + shift, (*this)[y], width_);
        }
    }

    // A row of bytes, 1 where marked.
    std::uint8_t* operator[](int y) const {
        return bytes_.bytes() + static_cast<std::size_t>(y) * stride_;
    }

    // Calls work(from, to) for a row's marked pixels, and for others between that fill up vectors.
    template <class Work>
    void runs(int y, const Work& work) const {
        const std::uint8_t* row = (*this)[y];
        for (int x = 0; x < width_;) {
            const void* next = std::memchr(row + x, 1, width_ - x);
            if (!next) return;
            const auto first = static_cast<int>(static_cast<const std::uint8_t*>(next) - row);
            const int from = first / kRun * kRun;
            x = from + kRun;
            while (x < width_ && std::memchr(row + x, 1, least(kRun, width_ - x))) x += kRun;
            work(from, least(x, width_));
        }
    }

private:
    static constexpr int kRun = 8;

    static void add(const std::uint8_t* __restrict marks, std::uint8_t* __restrict to, int count) {
        for (int x = 0; x < count; ++x) to[x] |= marks[x];
    }

    int height_, width_, stride_;
    Buffer bytes_;
};

// Calls store(y, x, means) for the rows begin..end, wherever `where` says: the means of N
// quantities, which load(y, x, q) gives, over the (2 radius + 1)^2 window clipped at the border.
// Running sums down the columns and along the row make the cost independent of the radius.  Each
// quantity has lines of its own, so that loops over x are vectors'.  `scratch`:
// box_scratch(N, width, radius) doubles.
template <int N, class Where, class Load, class Store>
void box_means(int height, int width, int radius, int begin, int end, double* scratch,
               const Where& where, const Load& load, const Store& store) {
    const int stride = box_line(width + 2 * radius + 1);
    double* const bordered = scratch;  // [N, stride]: the columns, between radius zeros
    double* const columns = bordered + radius;   // sums down the window's rows
    double* const sums = bordered + N * stride;  // [N, stride]: of the columns left of x - radius
    double* const shares = sums + N * stride;    // [width]: of one column in the window's mean
    std::memset(scratch, 0, sizeof(double) * N * 2 * stride);
    for (int x = 0; x < width; ++x)
        shares[x] = 1.0 / (least(x + radius, width - 1) - most(x - radius, 0) + 1);
    // The rows that enter and leave the window.
    const auto move = [=, &load](auto enters, auto leaves, int y) {
        FUSEMATTE_INDEPENDENT
        for (int x = 0; x < width; ++x) {
            double in[N] = {}, out[N] = {};
            if constexpr (enters) load(y + radius, x, in);
            if constexpr (leaves) load(y - radius - 1, x, out);
            for (int k = 0; k < N; ++k) columns[k * stride + x] += in[k] - out[k];
        }
    };
    const auto emit = [=, &store](auto sum, int y, int from, int to) {
        const double share = 1.0 / (least(y + radius, height - 1) - most(y - radius, 0) + 1);
        FUSEMATTE_INDEPENDENT
        for (int x = from; x < to; ++x) {
            double means[N];
            for (int k = 0; k < N; ++k) means[k] = sum(k, x) * (share * shares[x]);
            store(y, x, means);
        }
    };
    // For the windows around from..to: whatever is left of them is in none.
    const auto add_up = [=](int from, int to) {
        const int first = most(from, radius), last = least(to + 2 * radius, radius + width);
        double total[N] = {};
        for (int k = 0; k < N; ++k) std::fill(sums + k * stride + from, sums + k * stride + first, 0);
        for (int x = first; x < last; ++x)
            for (int k = 0; k < N; ++k)
                sums[k * stride + x] = total[k], total[k] += bordered[k * stride + x];
        for (int k = 0; k < N; ++k)
            std::fill(sums + k * stride + last, sums + k * stride + to + 2 * radius + 1, total[k]);
    };
    constexpr std::true_type yes{};
    constexpr std::false_type no{};
    for (int y = most(0, begin - radius); y < least(height, begin + radius); ++y)
        move(yes, no, y - radius);
    for (int y = begin; y < end; ++y) {
        const bool enters = y + radius < height, leaves = y > begin && y - radius > 0;
        if (enters && leaves) move(yes, yes, y);
        else if (enters) move(yes, no, y);
        else if (leaves) move(no, yes, y);
        where.runs(y, [&](int from, int to) {
            if (radius == 1) return emit(SumsOfThree{bordered, stride}, y, from, to);
            add_up(from, to);
            emit(RunningSums{sums, stride, 2 * radius + 1}, y, from, to);
        });
    }
}

constexpr std::size_t box_scratch(int quantities, int width, int radius) {
    return std::size_t(2) * quantities * box_line(width + 2 * radius + 1) + padded(width);
}

// box_means over the whole picture by several threads.
template <int N, class Where, class Load, class Store>
void box_means(int height, int width, int radius, int threads, const Where& where,
               const Load& load, const Store& store) {
    const std::size_t scratch = box_scratch(N, width, radius);
    const int workers = least(threads, height);
    const Buffer memory(sizeof(double) * scratch * workers);
    parallel(workers, height, [&](int worker, int begin, int end) {
        box_means<N>(height, width, radius, begin, end, memory.doubles() + scratch * worker, where,
                     load, store);
    });
}

// Marks the windows in which alpha is not solid: neither all 0 nor all 1.
inline void mark_mixed(const GuidedJob& job, Marks& mixed) {
    const int width = job.width;
    Marks above(job.height, width), below(job.height, width);
    for (int y = 0; y < job.height; ++y) {
        const float* alpha = job.alpha + static_cast<std::size_t>(y) * width;
        std::uint8_t *__restrict high = above[y], *__restrict low = below[y];
        for (int x = 0; x < width; ++x) {
            high[x] = !(alpha[x] <= kSolid);
            low[x] = !(1 - alpha[x] <= kSolid);
        }
    }
    const Marks one(above, job.radius), other(below, job.radius);
    for (int y = 0; y < job.height; ++y) {
        const std::uint8_t *high = one[y], *low = other[y];
        std::uint8_t* __restrict both = mixed[y];
        for (int x = 0; x < width; ++x) both[x] = high[x] & low[x];
    }
}

static void guided_coefficients(const GuidedJob& job, int threads) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    Marks mixed(job.height, job.width);
    mark_mixed(job, mixed);
    const Marks near(mixed, job.radius);
    const Buffer solved(sizeof(float) * area);
    float* const slopes = solved.floats();
    box_means<Guided::moments>(
        job.height, job.width, job.radius, threads, mixed,
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            Guided::sample(job.guide[at], job.alpha[at], q);
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            slopes[at] = mixed[y][x] ? Guided::slope(mean, job.epsilon) : 0.0f;
        });
    std::memset(job.slope, 0, sizeof(float) * area);
    std::memcpy(job.offset, job.alpha, sizeof(float) * area);
    box_means<1>(
        job.height, job.width, job.radius, threads, near,
        [&](int y, int x, double* q) {
            q[0] = slopes[static_cast<std::size_t>(y) * job.width + x];
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            const auto slope = static_cast<float>(mean[0]);
            job.slope[at] = slope;
            job.offset[at] = Guided::offset(slope, job.guide[at], job.alpha[at]);
        });
}

// Of two rows of samples, the means of four at from..to of half the resolution.
inline void halve(const float* upper, const float* lower, int from, int to, float* out) {
    FUSEMATTE_INDEPENDENT
    for (int x = from; x < to; ++x)
        out[x] = 0.25f * (upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1]);
}

// The linear model at half resolution, where alpha is unsure and a sample around is interpolated.
class HalfModel {
public:
    static constexpr int outputs = ColorGuided::outputs;

    HalfModel(const GuidedAlphaJob& job, int threads)
        : height(job.height / 2),
          width(job.width / 2),
          unsure(height, width),
          job_(job),
          area_(static_cast<std::size_t>(height) * width),
          halved_(sizeof(float) * 4 * area_),
          averaged_(sizeof(float) * outputs * area_) {
        for (int y = 0; y < height; ++y) mark(y);
        const Marks used(unsure, 1), solved(used, job.radius), seen(solved, job.radius);
        parallel(threads, height, [&](int, int begin, int end) {
            for (int y = begin; y < end; ++y)
                seen.runs(y, [&](int from, int to) { average(y, from, to); });
        });
        solve(used, solved, threads);
    }

    // Slopes and offset, averaged.
    const float* row(int output, int y) const {
        return averaged_.floats() + output * area_ + static_cast<std::size_t>(y) * width;
    }

    const int height, width;
    const Marks unsure;

private:
    const float* whole_row(const float* plane, int y) const {
        return plane + std::size_t(4) * y * width;
    }

    void mark(int y) const {
        const int count = width;
        const float *upper = whole_row(job_.alpha, y), *lower = upper + 2 * count;
        const auto doubt = [](float a) { return ColorGuided::unsure(a); };
        const auto more = [](float a, float b) { return a > b ? a : b; };
        std::uint8_t* __restrict marks = unsure[y];
        for (int x = 0; x < count; ++x)
            marks[x] = more(more(doubt(upper[2 * x]), doubt(upper[2 * x + 1])),
                            more(doubt(lower[2 * x]), doubt(lower[2 * x + 1]))) > 0;
    }

    // Of the guide's three channels and of alpha.
    void average(int y, int from, int to) const {
        for (int k = 0; k < 4; ++k) {
            const float* upper = whole_row(k < 3 ? job_.guide + 4 * k * area_ : job_.alpha, y);
            float* out = halved_.floats() + k * area_ + static_cast<std::size_t>(y) * width;
            halve(upper, upper + 2 * width, from, to, out);
        }
    }

    void solve(const Marks& used, const Marks& solved, int threads) const {
        const std::size_t area = area_;
        const int columns = width;
        const double epsilon = job_.epsilon;
        const Buffer memory(sizeof(float) * outputs * area);
        float *const model = memory.floats(), *const averaged = averaged_.floats();
        const float* const half = halved_.floats();
        box_means<ColorGuided::moments>(
            height, columns, job_.radius, threads, solved,
            [=](int y, int x, double* q) {
                const float* at = half + static_cast<std::size_t>(y) * columns + x;
                const float guide[3] = {at[0], at[area], at[2 * area]};
                ColorGuided::sample(guide, at[3 * area], q);
            },
            [=](int y, int x, const double* mean) {
                const std::size_t at = static_cast<std::size_t>(y) * columns + x;
                float out[outputs];
                ColorGuided::solve(mean, epsilon, out);
                for (int k = 0; k < outputs; ++k) model[k * area + at] = out[k];
            });
        box_means<outputs>(
            height, columns, job_.radius, threads, used,
            [=](int y, int x, double* q) {
                const std::size_t at = static_cast<std::size_t>(y) * columns + x;
                for (int k = 0; k < outputs; ++k) q[k] = model[k * area + at];
            },
            [=](int y, int x, const double* mean) {
                const std::size_t at = static_cast<std::size_t>(y) * columns + x;
                for (int k = 0; k < outputs; ++k)
                    averaged[k * area + at] = static_cast<float>(mean[k]);
            });
    }

    const GuidedAlphaJob& job_;
    const std::size_t area_;
    const Buffer halved_, averaged_;
};

static void guided_alpha(const GuidedAlphaJob& job, int threads) {
    constexpr int outputs = HalfModel::outputs;
    const HalfModel half(job, threads);
    const int height = half.height, width = half.width;
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    std::memcpy(job.out, job.alpha, sizeof(float) * area);
    const int workers = least(threads, job.height), line = padded(width + 2);
    const Buffer lines(sizeof(float) * outputs * line * workers);
    // Bilinear: every sample lies a quarter of the way from one of half resolution to another.
    parallel(workers, job.height, [&](int worker, int begin, int end) {
        float* const rows = lines.floats() + static_cast<std::size_t>(worker) * outputs * line + 1;
        for (int y = begin; y < end; ++y) {
            const int near = y / 2, far = most(0, least(height - 1, y % 2 ? near + 1 : near - 1));
            const std::size_t at = static_cast<std::size_t>(y) * job.width;
            const float *guide = job.guide + at, *alpha = job.alpha + at;
            float* out = job.out + at;
            half.unsure.runs(near, [&](int from, int to) {
                for (int k = 0; k < outputs; ++k) {
                    const float *one = half.row(k, near), *other = half.row(k, far);
                    float* row = rows + k * line;
                    for (int x = most(0, from - 1); x < least(to + 1, width); ++x)
                        row[x] = 0.75f * one[x] + 0.25f * other[x];
                    row[-1] = row[0], row[width] = row[width - 1];
                }
                FUSEMATTE_INDEPENDENT
                for (int x = from; x < to; ++x)
                    for (int side = 0; side < 2; ++side) {
                        float mean[outputs];
                        for (int k = 0; k < outputs; ++k) {
                            const float* row = rows + k * line + x;
                            mean[k] = 0.75f * row[0] + 0.25f * row[2 * side - 1];
                        }
                        const int i = 2 * x + side;
                        const float color[3] = {guide[i], guide[area + i], guide[2 * area + i]};
                        out[i] = ColorGuided::alpha(mean, color, alpha[i], job.certain);
                    }
            });
        }
    });
}

// The two colours of every pixel, both [3, height, width].
struct Colors {
    float *fore, *back;
};

// One blur fusion; `out` may not be the colours it starts from: windows overlap.
static void fuse(const ForegroundJob& job, int radius, const float* fore, const float* back,
                 Colors out, int threads) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    box_means<Fusion::moments>(
        job.height, job.width, radius, threads, Everywhere{job.width},
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            const float f[3] = {fore[at], fore[area + at], fore[2 * area + at]};
            const float b[3] = {back[at], back[area + at], back[2 * area + at]};
            Fusion::sample(f, b, job.alpha[at], q);
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            const float color[3] = {job.color[at], job.color[area + at], job.color[2 * area + at]};
            float f[3], b[3];
            Fusion::solve(mean, color, job.alpha[at], job.lower, job.upper, f, b);
            for (int c = 0; c < 3; ++c) {
                out.fore[c * area + at] = f[c];
                out.back[c * area + at] = b[c];
            }
        });
}

// The fusions write to the job's arrays and to spare ones in turn, the last one to the job's.
static void estimate_foreground(const ForegroundJob& job, int threads) {
    const std::size_t size = 3 * static_cast<std::size_t>(job.height) * job.width;
    const Buffer spare(sizeof(float) * 2 * size);
    const Colors targets[2] = {{job.foreground, job.background},
                               {spare.floats(), spare.floats() + size}};
    const float *fore = job.color, *back = job.color;
    for (int pass = 0; pass < job.passes; ++pass) {
        const Colors& out = targets[(job.passes - 1 - pass) % 2];
        fuse(job, job.radii[pass], fore, back, out, threads);
        fore = out.fore, back = out.back;
    }
}

}  // namespace fusematte::FUSEMATTE_ISA
