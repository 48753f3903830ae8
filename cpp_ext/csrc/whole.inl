// Area averages of bytes in whole numbers: 16-bit sums down the rows, 32-bit ones along them.  The
// tables' weights are multiples of 1 / parts, so nothing is rounded before the end.

namespace fusematte::FUSEMATTE_ISA {

// What it does not cover is averaged in floats.
template <class T>
class WholeAverage {
public:
    WholeAverage(const AreaTable&, const AreaTable&, int, int, int) {}
    static constexpr bool fits() { return false; }
    void average(const std::uint8_t*, std::ptrdiff_t, int, float*, float*, float* = nullptr) const {}
};

#if defined(FUSEMATTE_LANES) && FUSEMATTE_LANES == 16

// samples: of a row; step: from one of a channel to its next, 2 where two channels alternate.
template <>
class WholeAverage<std::uint8_t> {
public:
    WholeAverage(const AreaTable& rows, const AreaTable& columns, int samples, int width, int step)
        : rows_(rows),
          samples_(samples),
          step_(step),
          vectors_(padded(width) / kLanes),
          pairs_((columns.taps + 1) / 2),
          scale_(1 / (static_cast<float>(rows.parts) * static_cast<float>(columns.parts))),
          // Sums of bytes are signed 16-bit numbers.
          fits_(rows.parts <= 127 && rows.taps <= 2 * kRowPairs && columns.parts <= 0x7fff &&
                samples >= kBlock && step * (columns.reach - 1) < kWindow),
          starts_(sizeof(int) * vectors_),
          table_(fits_ ? sizeof(Taps) * vectors_ * pairs_ : 1) {
        for (int v = 0; fits_ && v < vectors_; ++v) {
            start(v) = step * columns.first[v * kLanes];
            for (int i = 0; i < kLanes; ++i)
                for (int k = 0; k < columns.taps; ++k) {
                    const int target = least(v * kLanes + i, width - 1);
                    Taps& taps = table()[v * pairs_ + k / 2];
                    const int at = step * (columns.first[target] + k) - start(v);
                    taps.index[2 * i + k % 2] = static_cast<std::int16_t>(at);
                    taps.weight[2 * i + k % 2] = static_cast<std::int16_t>(columns.count(target, k));
                }
        }
    }

    bool fits() const { return fits_; }

    // Target row `row` of a plane, and of the channel that alternates with it.  `memory`: floats for
    // a row of samples and a vector's window more.
    void average(const std::uint8_t* data, std::ptrdiff_t stride, int row, float* memory,
                 float* line, float* other = nullptr) const {
        auto* sums = reinterpret_cast<std::uint16_t*>(memory);
        add_rows(data, stride, row, sums);
        add_columns(sums, line);
        if (step_ == 2) add_columns(sums + 1, other);
    }

private:
    static constexpr int kBlock = 64, kWindow = 64, kRowPairs = 5;

    // Which of a window's samples two neighbouring taps of 16 targets take, and how often.
    struct Taps {
        std::int16_t index[2 * kLanes], weight[2 * kLanes];
    };

    int& start(int v) const { return reinterpret_cast<int*>(starts_.bytes())[v]; }
    Taps* table() const { return reinterpret_cast<Taps*>(table_.bytes()); }

    void add_rows(const std::uint8_t* data, std::ptrdiff_t stride, int row,
                  std::uint16_t* sums) const {
        int from = 0, to = rows_.taps;
        while (rows_.weight(row, from) == 0) ++from;
        while (rows_.weight(row, to - 1) == 0) --to;
        const std::uint8_t* lines[2 * kRowPairs];
        std::int16_t weights[kRowPairs] = {};
        for (int k = from; k < from + 2 * kRowPairs; ++k) {
            lines[k - from] = data + (rows_.first[row] + least(k, to - 1)) * stride;
            if (k < to) {
                const int shift = 8 * ((k - from) % 2);
                weights[(k - from) / 2] |= static_cast<std::int16_t>(rows_.count(row, k) << shift);
            }
        }
        switch ((to - from + 1) / 2) {
            case 1: return add_pairs<1>(lines, weights, sums);
            case 2: return add_pairs<2>(lines, weights, sums);
            case 3: return add_pairs<3>(lines, weights, sums);
            case 4: return add_pairs<4>(lines, weights, sums);
            default: return add_pairs<5>(lines, weights, sums);
        }
    }

    template <int Pairs>
    void add_pairs(const std::uint8_t* const* given, const std::int16_t* weights,
                   std::uint16_t* sums) const {
        const __m512i first_half = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
        const __m512i second_half = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
        const std::uint8_t* lines[2 * Pairs];
        __m512i weight[Pairs];
        for (int i = 0; i < 2 * Pairs; ++i) lines[i] = given[i];
        for (int p = 0; p < Pairs; ++p) weight[p] = _mm512_set1_epi16(weights[p]);
        const int last = samples_ - kBlock;
        for (int block = 0; block < samples_; block += kBlock) {
            const int x = least(block, last);
            __m512i low = _mm512_setzero_si512(), high = low;
            for (int p = 0; p < Pairs; ++p) {
                const __m512i a = _mm512_loadu_si512(lines[2 * p] + x);
                const __m512i b = _mm512_loadu_si512(lines[2 * p + 1] + x);
                const __m512i even = _mm512_unpacklo_epi8(a, b), odd = _mm512_unpackhi_epi8(a, b);
                low = _mm512_add_epi16(low, _mm512_maddubs_epi16(even, weight[p]));
                high = _mm512_add_epi16(high, _mm512_maddubs_epi16(odd, weight[p]));
            }
            _mm512_storeu_si512(sums + x, _mm512_permutex2var_epi64(low, first_half, high));
            _mm512_storeu_si512(sums + x + kBlock / 2,
                                _mm512_permutex2var_epi64(low, second_half, high));
        }
    }

    void add_columns(const std::uint16_t* sums, float* line) const {
        const __m512 scale = _mm512_set1_ps(scale_);
        for (int v = 0; v < vectors_; ++v) {
            const __m512i near = _mm512_loadu_si512(sums + start(v));
            const __m512i far = _mm512_loadu_si512(sums + start(v) + kWindow / 2);
            const Taps* taps = table() + v * pairs_;
            __m512i sum = _mm512_setzero_si512();
            for (int p = 0; p < pairs_; ++p) {
                const __m512i index = _mm512_load_si512(taps[p].index);
                const __m512i picked = _mm512_permutex2var_epi16(near, index, far);
                const __m512i weight = _mm512_load_si512(taps[p].weight);
                sum = _mm512_add_epi32(sum, _mm512_madd_epi16(picked, weight));
            }
            _mm512_store_ps(line + v * kLanes, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
        }
    }

    const AreaTable& rows_;
    const int samples_, step_, vectors_, pairs_;
    const float scale_;
    const bool fits_;
    const Buffer starts_, table_;
};

#endif

}  // namespace fusematte::FUSEMATTE_ISA
