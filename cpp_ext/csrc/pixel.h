// The arithmetic of one pixel, shared by the C++ and the CUDA kernels.
#pragma once

#ifdef __CUDACC__
#define FUSEMATTE_INLINE static __host__ __device__ __forceinline__
#else
#define FUSEMATTE_INLINE static inline
#endif

// Each instruction set has its own namespace: the linker must not merge their inline functions.
namespace fusematte::FUSEMATTE_ISA {

FUSEMATTE_INLINE float clamp(float value, float low, float high) {
    value = value > low ? value : low;
    return value < high ? value : high;
}

// Rounds half up to a code value in 0..peak.
FUSEMATTE_INLINE int quantise(float value, float peak) {
    return static_cast<int>(clamp(value, 0.0f, peak) + 0.5f);
}

FUSEMATTE_INLINE float blend(float foreground, float background, float alpha) {
    return background + alpha * (foreground - background);
}

// How shift fades out where samples under full alpha keep their own value: over the last 1/32 of
// alpha before the least one that rounds to the peak, which counts as full.  There the true shift
// is small: it falls with what the old background has in the mix.
struct Fade {
    float solid, slope, start;  // shift * clamp(start - slope * alpha, 0, 1)
};

FUSEMATTE_INLINE Fade fade(bool keep_solid, float peak) {
    constexpr float steep = 32;
    const float solid = 1 - 0.5f / peak;
    if (keep_solid) return {solid, steep, steep * solid};
    return {2, 0, 1};  // no alpha is above 2
}

// Y'CbCr to R'G'B': ITU-T H.273, clause 8.3, with the luma weights kr and kb.
struct ToRgb {
    float red_cr, green_cb, green_cr, blue_cb;
};

FUSEMATTE_INLINE ToRgb to_rgb(float kr, float kb) {
    const float cr = 2 * (1 - kr), cb = 2 * (1 - kb), kg = 1 - kr - kb;
    return {cr, -kb * cb / kg, -kr * cr / kg, cb};
}

// An alpha this near to 0 or 1 is solid: 8 bits round it to that.
constexpr float kSolid = 1.0f / 512;

// The guided filter's sums: He, Sun, Tang, "Guided Image Filtering".  They are doubles because a
// variance is a small difference of large numbers: with floats, and epsilon 1e-4, the slope of a
// flat bright area would be wrong in its third digit.
struct Guided {
    static constexpr int moments = 4;

    // I, p, Ip, II
    FUSEMATTE_INLINE void sample(float guide, float alpha, double* out) {
        const double i = guide, p = alpha;
        out[0] = i, out[1] = p, out[2] = i * p, out[3] = i * i;
    }

    // Equation 5 of the means of the moments.
    FUSEMATTE_INLINE float slope(const double* mean, double epsilon) {
        const double covariance = mean[2] - mean[0] * mean[1];
        const double variance = mean[3] - mean[0] * mean[0];
        return static_cast<float>(covariance / (variance + epsilon));
    }

    // With which the model gives alpha itself, not, as equation 8, alpha blurred by the window.
    FUSEMATTE_INLINE float offset(float slope, float guide, float alpha) {
        return alpha - slope * guide;
    }
};

// The same with a guide of three channels.
struct ColorGuided {
    static constexpr int moments = 13, outputs = 4;

    // I, p, Ip, II; of the symmetric II its upper half: 00, 01, 02, 11, 12, 22
    FUSEMATTE_INLINE void sample(const float* guide, float alpha, double* out) {
        const double a = guide[0], b = guide[1], c = guide[2], p = alpha;
        out[0] = a, out[1] = b, out[2] = c, out[3] = p;
        out[4] = a * p, out[5] = b * p, out[6] = c * p;
        out[7] = a * a, out[8] = a * b, out[9] = a * c;
        out[10] = b * b, out[11] = b * c, out[12] = c * c;
    }

    // Equations 14 and 15, the 3x3 system by its adjugate; means -> three slopes, offset.
    FUSEMATTE_INLINE void solve(const double* mean, double epsilon, float* out) {
        const double a = mean[0], b = mean[1], c = mean[2], p = mean[3];
        const double ap = mean[4] - a * p, bp = mean[5] - b * p, cp = mean[6] - c * p;
        const double aa = mean[7] - a * a + epsilon, ab = mean[8] - a * b, ac = mean[9] - a * c;
        const double bb = mean[10] - b * b + epsilon, bc = mean[11] - b * c;
        const double cc = mean[12] - c * c + epsilon;
        const double c0 = bb * cc - bc * bc, c1 = ac * bc - ab * cc, c2 = ab * bc - ac * bb;
        const double c3 = aa * cc - ac * ac, c4 = ab * ac - aa * bc, c5 = aa * bb - ab * ab;
        const double scale = 1 / (aa * c0 + ab * c1 + ac * c2);
        const double sa = (c0 * ap + c1 * bp + c2 * cp) * scale;
        const double sb = (c1 * ap + c3 * bp + c4 * cp) * scale;
        const double sc = (c2 * ap + c4 * bp + c5 * cp) * scale;
        out[0] = static_cast<float>(sa);
        out[1] = static_cast<float>(sb);
        out[2] = static_cast<float>(sc);
        out[3] = static_cast<float>(p - sa * a - sb * b - sc * c);
    }

    // How far an alpha is from solid; up to 0 where it is.
    FUSEMATTE_INLINE float unsure(float alpha) {
        return (alpha < 0.5f ? alpha : 1 - alpha) - kSolid;
    }

    // The same as a share: 1 from `certain` on.
    FUSEMATTE_INLINE float doubt(float alpha, float certain) {
        return clamp(unsure(alpha) / (certain - kSolid), 0.0f, 1.0f);
    }

    // Equation 16 where the given alpha is unsure; where it is solid the window's means would only
    // let its surroundings in.  mean: of the outputs.
    FUSEMATTE_INLINE float alpha(const float* mean, const float* guide, float given,
                                 float certain) {
        const float filtered =
            mean[0] * guide[0] + mean[1] * guide[1] + mean[2] * guide[2] + mean[3];
        return given + doubt(given, certain) * (clamp(filtered, 0.0f, 1.0f) - given);
    }
};

// Blur fusion: Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021.
struct Fusion {
    static constexpr int moments = 7;

    // alpha, alpha F, (1 - alpha) B
    FUSEMATTE_INLINE void sample(const float* fore, const float* back, float alpha, double* out) {
        out[0] = alpha;
        for (int c = 0; c < 3; ++c) {
            out[1 + c] = static_cast<double>(alpha) * fore[c];
            out[4 + c] = (1.0 - alpha) * back[c];
        }
    }

    FUSEMATTE_INLINE void solve(const double* mean, const float* color, float alpha,
                                const float* lower, const float* upper, float* fore,
                                float* back) {
        constexpr double epsilon = 1e-5;
        const double near = 1 / (mean[0] + epsilon), far = 1 / (1 - mean[0] + epsilon);
        for (int c = 0; c < 3; ++c) {
            const double f = mean[1 + c] * near, b = mean[4 + c] * far;
            const double residual = color[c] - alpha * f - (1.0 - alpha) * b;
            fore[c] = clamp(static_cast<float>(f + alpha * residual), lower[c], upper[c]);
            back[c] = clamp(static_cast<float>(b), lower[c], upper[c]);
        }
    }
};

}  // namespace fusematte::FUSEMATTE_ISA
