// Vectors of floats, as wide as the instruction set has them, and the few operations on them that
// compilers do not find by themselves.  One interface, four widths; Scalar also does the ends of
// rows.

#ifdef __GNUC__
#define FUSEMATTE_INLINED __attribute__((always_inline))  // for the bodies of loops
#else
#define FUSEMATTE_INLINED
#endif

// Before a loop whose turns neither read nor write what another one writes.
#if defined(__clang__)
#define FUSEMATTE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FUSEMATTE_INDEPENDENT _Pragma("GCC ivdep")
#else
#define FUSEMATTE_INDEPENDENT
#endif

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
    // A bit for each lane in which a > b.
    static unsigned above(Vec a, Vec b) { return a > b; }
    // `value` where a >= b, else a.
    static Vec replace_from(Vec a, Vec b, Vec value) { return a >= b ? value : a; }
    // The sums of the neighbours p[0] + p[1], p[2] + p[3], ...
    static Vec sum_pairs(const float* p) { return p[0] + p[1]; }
    static void store(float* p, Vec v) { *p = v; }
    // Truncates values that fit the type.
    static void store(std::uint8_t* p, Vec v, int) { *p = static_cast<std::uint8_t>(v); }
    static void store(std::uint16_t* p, Vec v, int low_bits) {
        *p = static_cast<std::uint16_t>(static_cast<int>(v) << low_bits);
    }
    // Where lookup interpolates a row linearly; `near` as in LinearTable.
    struct Place {
        int index;
        float fraction;
    };
    static Place place(const int* index, const float* fraction, bool) { return {*index, *fraction}; }
    // `row` is readable for 16 values from any index on.
    static Vec lookup(const float* row, const Place& at) {
        return row[at.index] + at.fraction * (row[at.index + 1] - row[at.index]);
    }
    // row[index]; all lanes' lie within `reach`, and `row` is readable for 64 from any on.
    static Vec pick(const float* row, const int* index, int) { return row[*index]; }
};

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
    static unsigned above(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
    static Vec replace_from(Vec a, Vec b, Vec value) {
        return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), value);
    }
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
    struct Place {
        int first;
        Vec fraction;
        __m512i lane, next;
        bool near;
    };
    static Place place(const int* index, const float* fraction, bool near) {
        const __m512i first = _mm512_set1_epi32(*index);
        const __m512i lane = _mm512_sub_epi32(_mm512_loadu_si512(index), first);
        return {*index, load(fraction), lane, _mm512_add_epi32(lane, _mm512_set1_epi32(1)), near};
    }
    static Vec lookup(const float* row, const Place& at) {
        row += at.first;
        const Vec source = load(row);
        Vec low = _mm512_permutexvar_ps(at.lane, source);
        Vec high = _mm512_permutexvar_ps(at.next, source);
        if (__builtin_expect(!at.near, false)) {
            low = _mm512_i32gather_ps(at.lane, row, 4);
            high = _mm512_i32gather_ps(at.next, row, 4);
        }
        return fma(at.fraction, high - low, low);
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
#elif FUSEMATTE_LANES == 4
struct Wide {
    using Vec = float32x4_t;
    static constexpr int lanes = 4;

    static Vec set(float value) { return vdupq_n_f32(value); }
    static Vec load(const float* p) { return vld1q_f32(p); }
    static Vec load(const std::uint8_t* p, int) {
        std::uint32_t bytes;
        std::memcpy(&bytes, p, sizeof bytes);
        const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
        return vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
    }
    static Vec load(const std::uint16_t* p, int low_bits) {
        const uint16x4_t code = vshl_u16(vld1_u16(p), vdup_n_s16(static_cast<short>(-low_bits)));
        return vcvtq_f32_u32(vmovl_u16(code));
    }
    static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
    static Vec min(Vec a, Vec b) { return vminq_f32(a, b); }
    static Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
    static unsigned above(Vec a, Vec b) {
        static constexpr std::uint32_t bits[4] = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), vld1q_u32(bits)));
    }
    static Vec replace_from(Vec a, Vec b, Vec value) {
        return vbslq_f32(vcgeq_f32(a, b), value, a);
    }
    static Vec sum_pairs(const float* p) { return vpaddq_f32(load(p), load(p + 4)); }
    static void store(float* p, Vec v) { vst1q_f32(p, v); }
    static uint16x4_t words(Vec v) { return vmovn_u32(vcvtq_u32_f32(v)); }
    static void store(std::uint8_t* p, Vec v, int) {
        const uint8x8_t code = vmovn_u16(vcombine_u16(words(v), words(v)));
        const std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(code), 0);
        std::memcpy(p, &bytes, sizeof bytes);
    }
    static void store(std::uint16_t* p, Vec v, int low_bits) {
        vst1_u16(p, vshl_u16(words(v), vdup_n_s16(static_cast<short>(low_bits))));
    }
    // Four neighbours of `near` lie between five of the source: two registers of a table hold them.
    struct Place {
        const int* index;
        Vec fraction;
        uint8x16_t lane, next;
        bool near;
    };
    static Place place(const int* index, const float* fraction, bool near) {
        const uint32x4_t first = vdupq_n_u32(static_cast<std::uint32_t>(*index));
        const uint32x4_t step = vsubq_u32(vreinterpretq_u32_s32(vld1q_s32(index)), first);
        // The four bytes of float k are 4k to 4k + 3.
        const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100), step, 0x04040404);
        const uint32x4_t next = vaddq_u32(bytes, vdupq_n_u32(0x04040404));
        return {index, load(fraction), vreinterpretq_u8_u32(bytes), vreinterpretq_u8_u32(next),
                near};
    }
    static Vec lookup(const float* row, const Place& at) {
        Vec low, high;
        if (__builtin_expect(at.near, true)) {
            row += *at.index;
            const uint8x16x2_t source = {
                {vreinterpretq_u8_f32(load(row)), vreinterpretq_u8_f32(load(row + 4))}};
            low = vreinterpretq_f32_u8(vqtbl2q_u8(source, at.lane));
            high = vreinterpretq_f32_u8(vqtbl2q_u8(source, at.next));
        } else {
            low = pick(row, at.index, 0);
            high = pick(row + 1, at.index, 0);
        }
        return fma(at.fraction, vsubq_f32(high, low), low);
    }
    static Vec pick(const float* row, const int* index, int) {
        Vec v = vld1q_dup_f32(row + index[0]);
        v = vld1q_lane_f32(row + index[1], v, 1);
        v = vld1q_lane_f32(row + index[2], v, 2);
        return vld1q_lane_f32(row + index[3], v, 3);
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
    static unsigned above(Vec a, Vec b) {
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
    }
    static Vec replace_from(Vec a, Vec b, Vec value) {
        return _mm256_blendv_ps(a, value, _mm256_cmp_ps(a, b, _CMP_GE_OQ));
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
    struct Place {
        int first;
        Vec fraction;
        __m256i lane, next;
        bool near;
    };
    static Place place(const int* index, const float* fraction, bool near) {
        const __m256i first = _mm256_set1_epi32(*index);
        const __m256i given = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
        const __m256i lane = _mm256_sub_epi32(given, first);
        return {*index, load(fraction), lane, _mm256_add_epi32(lane, _mm256_set1_epi32(1)), near};
    }
    static Vec lookup(const float* row, const Place& at) {
        row += at.first;
        const Vec source = load(row);
        Vec low = _mm256_permutevar8x32_ps(source, at.lane);
        Vec high = _mm256_permutevar8x32_ps(source, at.next);
        if (__builtin_expect(!at.near, false)) {
            low = _mm256_i32gather_ps(row, at.lane, 4);
            high = _mm256_i32gather_ps(row, at.next, 4);
        }
        return fma(at.fraction, high - low, low);
    }
    // A gather takes as long as a dozen permutations.
    static Vec pick(const float* row, const int* index, int spread) {
        const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
        if (spread >= 32) return _mm256_i32gather_ps(row, at, 4);
        const float* near = row + *index;
        const __m256i lane = _mm256_sub_epi32(at, _mm256_set1_epi32(*index));
        const auto from = [=](int first, Vec below) FUSEMATTE_INLINED {
            const __m256i beyond = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1));
            const Vec found = _mm256_permutevar8x32_ps(load(near + first), lane);  // modulo 8
            return _mm256_blendv_ps(below, found, _mm256_castsi256_ps(beyond));
        };
        const Vec low = from(8, _mm256_permutevar8x32_ps(load(near), lane));
        if (spread < 16) return low;
        const Vec middle = from(16, low);
        return spread < 24 ? middle : from(24, middle);
    }
};
#endif

// Asks for the cache line of an address that need not be valid.
inline void prefetch(const void* address) {
#ifdef __GNUC__
    __builtin_prefetch(address);
#else
    static_cast<void>(address);
#endif
}

// memcpy.  Long strings of bytes go by the one instruction that does not read what it overwrites
// first; every processor with AVX-512 has it in its fast form.
inline void copy_bytes(void* to, const void* from, std::size_t size) {
#if defined(__GNUC__) && FUSEMATTE_LANES == 16
    if (size >= 128) {
        asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
        return;
    }
#endif
    std::memcpy(to, from, size);
}

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
    const int last = n - Wide::lanes;
    for (int x = 0; x < n; x += Wide::lanes) body(Wide{}, x < last ? x : last);
}

}  // namespace fusematte::FUSEMATTE_ISA
