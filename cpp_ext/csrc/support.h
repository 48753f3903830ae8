// What the kernels share and no instruction set changes: threads, buffers, resampling tables.
//
// Nothing here is inline but trivial accessors: code that an AVX-512 unit emits under a common
// name could be the copy that the linker keeps for all.
#pragma once

#include <cstddef>
#include <functional>

namespace fusematte {

// Zeroed memory, aligned for any vector; freed at the end of the scope.
class Buffer {
public:
    explicit Buffer(std::size_t bytes);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    float* floats() const { return static_cast<float*>(data_); }
    unsigned char* bytes() const { return static_cast<unsigned char*>(data_); }
    double* doubles() const { return static_cast<double*>(data_); }

private:
    void* data_;
};

constexpr int kLanes = 16;  // tables and scratch rows are padded to whole vectors of this many

constexpr int padded(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Splits 0..count into at most `threads` runs and calls work(worker, begin, end) on each at once.
void parallel(int threads, int count, const std::function<void(int, int, int)>& work);

// Target cell i averages source[first[i] + k] with weight(i, k), k < taps; they sum to 1.  In whole
// numbers: with count(i, k), which sum to parts.
struct AreaTable {
    AreaTable(int source, int target);
    ~AreaTable();
    AreaTable(const AreaTable&) = delete;
    AreaTable& operator=(const AreaTable&) = delete;

    float weight(int i, int k) const { return weights[static_cast<std::size_t>(k) * stride + i]; }

    int count(int i, int k) const {
        return static_cast<int>(weight(i, k) * static_cast<float>(parts) + 0.5f);
    }

    const int stride;
    const int parts;
    int taps;
    int reach;   // source cells under any kLanes neighbours
    int spread;  // largest step of `first` over 7 cells
    int* first;
    float* weights;  // [taps, stride]
};

// Target sample i lies `fraction[i]` of the way from source[index[i]] to source[index[i] + 1].
// index[i] + 1 may be one past the end, with fraction 0.  Padded to whole vectors.  `near`: any 8
// neighbouring samples lie between 8 neighbours of the source, and any 16 between 16.
struct LinearTable {
    LinearTable(int source, int target);
    ~LinearTable();
    LinearTable(const LinearTable&) = delete;
    LinearTable& operator=(const LinearTable&) = delete;

    const bool near;
    int* index;
    float* fraction;
};

}  // namespace fusematte
