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

// Calls store(y, x, means) for the rows begin..end: the means of N quantities, which load(y, x, q)
// gives, over the (2 radius + 1)^2 window clipped at the border.  Running sums down the columns
// and along the row make the cost independent of the radius.  Each quantity has lines of its own,
// so that loops over x are vectors'.  `scratch`: box_scratch(N, width, radius) doubles.
template <int N, class Load, class Store>
void box_means(int height, int width, int radius, int begin, int end, double* scratch,
               const Load& load, const Store& store) {
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
    const auto emit = [=, &store](auto sum, int y) {
        const double share = 1.0 / (least(y + radius, height - 1) - most(y - radius, 0) + 1);
        FUSEMATTE_INDEPENDENT
        for (int x = 0; x < width; ++x) {
            double means[N];
            for (int k = 0; k < N; ++k) means[k] = sum(k, x) * (share * shares[x]);
            store(y, x, means);
        }
    };
    const auto add_up = [=] {
        double total[N] = {};
        for (int x = 0; x < width; ++x)
            for (int k = 0; k < N; ++k)
                sums[k * stride + radius + x] = total[k], total[k] += columns[k * stride + x];
        for (int k = 0; k < N; ++k)
            std::fill_n(sums + k * stride + radius + width, radius + 1, total[k]);
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
        if (radius == 1) emit(SumsOfThree{bordered, stride}, y);
        else add_up(), emit(RunningSums{sums, stride, 2 * radius + 1}, y);
    }
}

constexpr std::size_t box_scratch(int quantities, int width, int radius) {
    return std::size_t(2) * quantities * box_line(width + 2 * radius + 1) + padded(width);
}

// box_means over the whole picture by several threads.
template <int N, class Load, class Store>
void box_means(int height, int width, int radius, int threads, const Load& load,
               const Store& store) {
    const std::size_t scratch = box_scratch(N, width, radius);
    const int workers = least(threads, height);
    const Buffer memory(sizeof(double) * scratch * workers);
    parallel(workers, height, [&](int worker, int begin, int end) {
        box_means<N>(height, width, radius, begin, end, memory.doubles() + scratch * worker, load,
                     store);
    });
}

static void guided_coefficients(const GuidedJob& job, int threads) {
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    const Buffer solved(sizeof(float) * area * 2);
    float* coefficients = solved.floats();
    box_means<Guided::moments>(
        job.height, job.width, job.radius, threads,
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            Guided::sample(job.guide[at], job.alpha[at], q);
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            float out[2];
            Guided::solve(mean, job.epsilon, out);
            coefficients[at] = out[0], coefficients[area + at] = out[1];
        });
    box_means<2>(
        job.height, job.width, job.radius, threads,
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            q[0] = coefficients[at], q[1] = coefficients[area + at];
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            job.slope[at] = static_cast<float>(mean[0]);
            job.offset[at] = static_cast<float>(mean[1]);
        });
}

// Of a plane [2 height, 2 width], the mean of the four samples at (x, y) of half its resolution.
inline float mean_of_four(const float* plane, int width, int y, int x) {
    const float* at = plane + std::size_t(4) * y * width + 2 * x;
    return 0.25f * (at[0] + at[1] + at[2 * width] + at[2 * width + 1]);
}

// The linear model at half resolution: slopes and offset, averaged, [outputs, height, width].
inline void color_coefficients(const GuidedAlphaJob& job, float* solved, float* averaged,
                               int threads) {
    using Filter = ColorGuided;
    const int height = job.height / 2, width = job.width / 2;
    const std::size_t area = static_cast<std::size_t>(height) * width;
    box_means<Filter::moments>(
        height, width, job.radius, threads,
        [&](int y, int x, double* q) {
            const float guide[3] = {mean_of_four(job.guide, width, y, x),
                                    mean_of_four(job.guide + 4 * area, width, y, x),
                                    mean_of_four(job.guide + 8 * area, width, y, x)};
            Filter::sample(guide, mean_of_four(job.alpha, width, y, x), q);
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * width + x;
            float out[Filter::outputs];
            Filter::solve(mean, job.epsilon, out);
            for (int k = 0; k < Filter::outputs; ++k) solved[k * area + at] = out[k];
        });
    box_means<Filter::outputs>(
        height, width, job.radius, threads,
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * width + x;
            for (int k = 0; k < Filter::outputs; ++k) q[k] = solved[k * area + at];
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * width + x;
            for (int k = 0; k < Filter::outputs; ++k)
                averaged[k * area + at] = static_cast<float>(mean[k]);
        });
}

static void guided_alpha(const GuidedAlphaJob& job, int threads) {
    constexpr int outputs = ColorGuided::outputs;
    const int height = job.height / 2, width = job.width / 2;
    const std::size_t half = static_cast<std::size_t>(height) * width, area = 4 * half;
    const Buffer memory(sizeof(float) * 2 * outputs * half);
    float* const averaged = memory.floats() + outputs * half;
    color_coefficients(job, memory.floats(), averaged, threads);
    const int workers = least(threads, job.height), line = padded(width + 2);
    const Buffer lines(sizeof(float) * outputs * line * workers);
    // Bilinear: every sample lies a quarter of the way from one of half resolution to another.
    parallel(workers, job.height, [&](int worker, int begin, int end) {
        float* const rows = lines.floats() + static_cast<std::size_t>(worker) * outputs * line;
        for (int y = begin; y < end; ++y) {
            const int near = y / 2, far = most(0, least(height - 1, y % 2 ? near + 1 : near - 1));
            for (int k = 0; k < outputs; ++k) {
                const float* one = averaged + k * half + static_cast<std::size_t>(near) * width;
                const float* other = averaged + k * half + static_cast<std::size_t>(far) * width;
                float* row = rows + k * line + 1;
                for (int x = 0; x < width; ++x) row[x] = 0.75f * one[x] + 0.25f * other[x];
                row[-1] = row[0], row[width] = row[width - 1];
            }
            const std::size_t at = static_cast<std::size_t>(y) * job.width;
            const float *guide = job.guide + at, *alpha = job.alpha + at;
            float* out = job.out + at;
            FUSEMATTE_INDEPENDENT
            for (int x = 0; x < width; ++x)
                for (int side = 0; side < 2; ++side) {
                    float mean[outputs];
                    for (int k = 0; k < outputs; ++k) {
                        const float* row = rows + k * line + 1 + x;
                        mean[k] = 0.75f * row[0] + 0.25f * row[2 * side - 1];
                    }
                    const int i = 2 * x + side;
                    const float color[3] = {guide[i], guide[area + i], guide[2 * area + i]};
                    out[i] = ColorGuided::alpha(mean, color, alpha[i], job.certain);
                }
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
        job.height, job.width, radius, threads,
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
