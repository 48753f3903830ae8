#include "support.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

namespace fusematte {

namespace {
constexpr std::align_val_t kAlignment{64};
}

Buffer::Buffer(std::size_t bytes) : data_(::operator new(bytes, kAlignment)) {
    std::memset(data_, 0, bytes);
}

Buffer::~Buffer() { ::operator delete(data_, kAlignment); }

void parallel(int threads, int count, const std::function<void(int, int, int)>& work) {
    const int workers = std::max(1, std::min(threads, count));
    auto run = [&](int worker) {
        const auto edge = [&](int i) {
            return static_cast<int>(static_cast<long long>(count) * i / workers);
        };
        work(worker, edge(worker), edge(worker + 1));
    };
    std::vector<std::thread> others;
    others.reserve(workers - 1);
    int started = 1;
    try {
        for (; started < workers; ++started) others.emplace_back(run, started);
    } catch (const std::system_error&) {
        // The system has no thread left: this one does the rest.
    }
    run(0);
    for (int worker = started; worker < workers; ++worker) run(worker);
    for (auto& thread : others) thread.join();
}

AreaTable::AreaTable(int source, int target)
    : stride(padded(target)), parts(source / std::gcd(source, target)), reach(0), spread(0) {
    const double step = static_cast<double>(source) / target;
    const double share = 1 / step;
    taps = std::min(source, static_cast<int>(std::ceil(step)) + 1);
    first = new int[stride]();
    weights = new float[static_cast<std::size_t>(stride) * taps]();
    for (int i = 0; i < target; ++i) {
        const double begin = i * step, end = (i + 1) * step;
        first[i] = std::min(static_cast<int>(begin), source - taps);
        for (int k = 0; k < taps; ++k) {
            const int cell = first[i] + k;
            const double overlap = std::min(end, cell + 1.0) - std::max<double>(begin, cell);
            weights[static_cast<std::size_t>(k) * stride + i] =
                static_cast<float>(std::max(0.0, overlap) * share);
        }
        reach = std::max(reach, first[i] - first[std::max(0, i - kLanes + 1)] + taps);
        spread = std::max(spread, first[i] - first[std::max(0, i - 7)]);
    }
}

AreaTable::~AreaTable() {
    delete[] first;
    delete[] weights;
}

LinearTable::LinearTable(int source, int target) : near(4LL * source <= 3LL * target) {
    index = new int[padded(target)];
    fraction = new float[padded(target)];
    const double step = static_cast<double>(source) / target;
    for (int i = 0; i < padded(target); ++i) {
        const double position = (std::min(i, target - 1) + 0.5) * step - 0.5;
        const double clamped = std::max(0.0, std::min<double>(position, source - 1));
        index[i] = static_cast<int>(clamped);
        fraction[i] = static_cast<float>(clamped - index[i]);
    }
}

LinearTable::~LinearTable() {
    delete[] index;
    delete[] fraction;
}

}  // namespace fusematte
