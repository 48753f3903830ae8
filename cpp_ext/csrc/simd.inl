// Vectors of floats, as wide as the instruction set has them, and the few operations on them that
// compilers do not find by themselves.  One interface, three widths; Scalar also does the ends of
// rows.

namespace fusematte::FUSEMATTE_ISA {

struct Scalar {
    using Vec = float;
    static constexpr int lanes = 1;

    static Vec set(float value) { return value; }
    static Vec load(const float* p) { return *p; }
    static Vec load(const std::uint8_t* p, int) { return *p; }
    static Vec load(const std::uint16_t* p, int low_bits) {
        return static_cast<float>(*p >> low_bits);
    }
    static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
    static Vec min(Vec a, Vec b) { return a < b ? a : b; }
    static Vec max(Vec a, Vec b) { return a > b ? a : b; }
    static float least(Vec v) { return v; }
    static float most(Vec v) { return v; }
    // The sums of the neighbours p[0] + p[1], p[2] + p[3], ...
    static Vec sum_pairs(const float* p) { return p[0] + p[1]; }
    static void store(float* p, Vec v) { *p = v; }
    // Truncates values that fit the type.
    static void store(std::uint8_t* p, Vec v, int) { *p = static_cast<std::uint8_t>(v); }
    static void store(std::uint16_t* p, Vec v, int low_bits) {
        *p = static_cast<std::uint16_t>(static_cast<int>(v) << low_bits);
    }
    // row[index], linearly interpolated; `row` is readable for 16 values from any index on.
    static Vec lookup(const float* row, const int* index, const float* fraction, bool) {
        return row[*index] + *fraction * (row[*index + 1] - row[*index]);
    }
    // row[index]; all lanes' lie within `reach`, and `row` is readable for 64 from any on.
    static Vec pick(const float* row, const int* index, int) { return row[*index]; }
};

#ifdef FUSEMATTE_LANES
// lookup where neighbouring samples may lie too far apart for one vector of the row.
template <class Wide>
inline typename Wide::Vec gather(const float* row, const int* index, const float* fraction) {
    float values[Wide::lanes];
    for (int i = 0; i < Wide::lanes; ++i)
        values[i] = Scalar::lookup(row, index + i, fraction + i, false);
    return Wide::load(values);
}
#endif

#if !defined(FUSEMATTE_LANES)
using Wide = Scalar;
#elif FUSEMATTE_LANES == 16
struct Wide {
    using Vec = __m512;
    static constexpr int lanes = 16;

    static Vec set(float value) { return _mm512_set1_ps(value); }
    static Vec load(const float* p) { return _mm512_loadu_ps(p); }
    static Vec load(const std::uint8_t* p, int) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    }
    static Vec load(const std::uint16_t* p, int low_bits) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i code = _mm256_srl_epi16(words, _mm_cvtsi32_si128(low_bits));
        return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(code));
    }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
    static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
    static float least(Vec v) { return _mm512_reduce_min_ps(v); }
    static float most(Vec v) { return _mm512_reduce_max_ps(v); }
    static Vec sum_pairs(const float* p) {
        const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4,
                                              2, 0);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        const Vec first = load(p), second = load(p + 16);
        return _mm512_permutex2var_ps(first, even, second) +
               _mm512_permutex2var_ps(first, odd, second);
    }
    static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
    static void store(std::uint8_t* p, Vec v, int) {
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    }
    static void store(std::uint16_t* p, Vec v, int low_bits) {
        const __m256i code = _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(v));
        const __m256i words = _mm256_sll_epi16(code, _mm_cvtsi32_si128(low_bits));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
    }
    static Vec lookup(const float* row, const int* index, const float* fraction, bool near) {
        if (!near) return gather<Wide>(row, index, fraction);
        const __m512i first = _mm512_set1_epi32(*index);
        const __m512i lane = _mm512_sub_epi32(_mm512_loadu_si512(index), first);
        const __m512i next = _mm512_add_epi32(lane, _mm512_set1_epi32(1));
        const Vec source = load(row + *index);
        const Vec low = _mm512_permutexvar_ps(lane, source);
        const Vec high = _mm512_permutexvar_ps(next, source);
        return fma(load(fraction), high - low, low);
    }
    static Vec pick(const float* row, const int* index, int reach) {
        const __m512i at = _mm512_loadu_si512(index);
        if (reach > 64) return _mm512_i32gather_ps(at, row, 4);
        const float* near = row + *index;
        const __m512i lane = _mm512_sub_epi32(at, _mm512_set1_epi32(*index));
        const Vec low = _mm512_permutex2var_ps(load(near), lane, load(near + 16));
        if (reach <= 32) return low;
        const __mmask16 beyond = _mm512_cmpgt_epi32_mask(lane, _mm512_set1_epi32(31));
        const Vec high = _mm512_permutex2var_ps(load(near + 32), lane, load(near + 48));
        return _mm512_mask_blend_ps(beyond, low, high);
    }
};
#else
struct Wide {
    using Vec = __m256;
    static constexpr int lanes = 8;

    static Vec set(float value) { return _mm256_set1_ps(value); }
    static Vec load(const float* p) { return _mm256_loadu_ps(p); }
    static Vec load(const std::uint8_t* p, int) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    }
    static Vec load(const std::uint16_t* p, int low_bits) {
        const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i code = _mm_srl_epi16(words, _mm_cvtsi32_si128(low_bits));
        return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(code));
    }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
    static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
    static float least(Vec v) { return -most(set(0) - v); }
    static float most(Vec v) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    static Vec sum_pairs(const float* p) {
        const __m256d halves = _mm256_castps_pd(_mm256_hadd_ps(load(p), load(p + 8)));
        return _mm256_castpd_ps(_mm256_permute4x64_pd(halves, 0xd8));
    }
    static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
    static __m128i words(Vec v) {
        const __m256i code = _mm256_cvttps_epi32(v);
        return _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    }
    static void store(std::uint8_t* p, Vec v, int) {
        const __m128i code = words(v);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(code, code));
    }
    static void store(std::uint16_t* p, Vec v, int low_bits) {
        const __m128i code = _mm_sll_epi16(words(v), _mm_cvtsi32_si128(low_bits));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), code);
    }
    static Vec lookup(const float* row, const int* index, const float* fraction, bool near) {
        if (!near) return gather<Wide>(row, index, fraction);
        const __m256i first = _mm256_set1_epi32(*index);
        const __m256i given = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
        const __m256i lane = _mm256_sub_epi32(given, first);
        const __m256i next = _mm256_add_epi32(lane, _mm256_set1_epi32(1));
        const Vec source = load(row + *index);
        const Vec low = _mm256_permutevar8x32_ps(source, lane);
        const Vec high = _mm256_permutevar8x32_ps(source, next);
        return fma(load(fraction), high - low, low);
    }
    static Vec pick(const float* row, const int* index, int) {
        const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
        return _mm256_i32gather_ps(row, at, 4);
    }
};
#endif

template <class V>
inline typename V::Vec clamp(V, typename V::Vec v, float low, float high) {
    return V::min(V::max(v, V::set(low)), V::set(high));
}

// Calls body(lanes type, x) so that 0..n is covered.  The last vector may overlap the one before:
// bodies must not read what they write.
template <class Body>
inline void for_lanes(int n, const Body& body) {
    if (n < Wide::lanes) {
        for (int x = 0; x < n; ++x) body(Scalar{}, x);
        return;
    }
    int x = 0;
    for (; x + Wide::lanes <= n; x += Wide::lanes) body(Wide{}, x);
    if (x < n) body(Wide{}, n - Wide::lanes);
}

}  // namespace fusematte::FUSEMATTE_ISA
