// Kernels made of box means: the guided filter and the blur-fusion foreground estimate.

namespace fusematte::FUSEMATTE_ISA {

inline int least(int a, int b) { return a < b ? a : b; }
inline int most(int a, int b) { return a > b ? a : b; }

// Calls store(y, x, means) for the rows begin..end: the means of N quantities, which load(y, x, q)
// gives, over the (2 radius + 1)^2 window clipped at the border.  Running sums, down the columns
// and then along the row, make the cost independent of the radius.  `columns`: [width, N] scratch.
template <int N, class Load, class Store>
void box_means(int height, int width, int radius, int begin, int end, double* columns,
               const Load& load, const Store& store) {
    const auto add_row = [&](int y, double sign) {
        for (int x = 0; x < width; ++x) {
            double q[N];
            load(y, x, q);
            for (int k = 0; k < N; ++k) columns[x * N + k] += sign * q[k];
        }
    };
    std::memset(columns, 0, sizeof(double) * width * N);
    for (int y = most(0, begin - radius); y < least(height, begin + radius); ++y) add_row(y, 1);
    for (int y = begin; y < end; ++y) {
        if (y + radius < height) add_row(y + radius, 1);
        const int rows = least(y + radius, height - 1) - most(y - radius, 0) + 1;
        double sums[N] = {}, means[N];
        for (int x = 0; x < least(radius, width); ++x)
            for (int k = 0; k < N; ++k) sums[k] += columns[x * N + k];
        for (int x = 0; x < width; ++x) {
            if (x + radius < width)
                for (int k = 0; k < N; ++k) sums[k] += columns[(x + radius) * N + k];
            const int across = least(x + radius, width - 1) - most(x - radius, 0) + 1;
            const double scale = 1.0 / (rows * across);
            for (int k = 0; k < N; ++k) means[k] = sums[k] * scale;
            store(y, x, means);
            if (x - radius >= 0)
                for (int k = 0; k < N; ++k) sums[k] -= columns[(x - radius) * N + k];
        }
        if (y - radius >= 0) add_row(y - radius, -1);
    }
}

// box_means over the whole picture by several threads.
template <int N, class Load, class Store>
void box_means(int height, int width, int radius, int threads, const Load& load,
               const Store& store) {
    const std::size_t scratch = static_cast<std::size_t>(width) * N;
    const int workers = least(threads, height);
    const Buffer columns(sizeof(double) * scratch * workers);
    parallel(workers, height, [&](int worker, int begin, int end) {
        box_means<N>(height, width, radius, begin, end, columns.doubles() + scratch * worker, load,
                     store);
    });
}

template <int Channels>
void guided(const GuidedJob& job, int threads) {
    using Filter = Guided<Channels>;
    constexpr int outputs = Channels + 1;
    const std::size_t area = static_cast<std::size_t>(job.height) * job.width;
    const Buffer solved(sizeof(float) * area * outputs);
    float* coefficients = solved.floats();
    box_means<Filter::moments>(
        job.height, job.width, job.radius, threads,
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            float guide[Channels];
            for (int c = 0; c < Channels; ++c) guide[c] = job.guide[c * area + at];
            Filter::sample(guide, job.alpha[at], q);
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            Filter::solve(mean, job.epsilon, coefficients + at * outputs);
        });
    box_means<outputs>(
        job.height, job.width, job.radius, threads,
        [&](int y, int x, double* q) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            for (int k = 0; k < outputs; ++k) q[k] = coefficients[at * outputs + k];
        },
        [&](int y, int x, const double* mean) {
            const std::size_t at = static_cast<std::size_t>(y) * job.width + x;
            for (int c = 0; c < Channels; ++c)
                job.slope[c * area + at] = static_cast<float>(mean[c]);
            job.offset[at] = static_cast<float>(mean[Channels]);
        });
}

static void guided_coefficients(const GuidedJob& job, int threads) {
    if (job.channels == 1)
        guided<1>(job, threads);
    else
        guided<3>(job, threads);
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
