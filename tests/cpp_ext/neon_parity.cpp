// The kernels of every instruction set against the portable ones, without Python: runs in an emulator.
//
// tests/cpp_ext/test_neon.py compiles and runs it.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "csrc/kernels.h"

using namespace fusematte;

namespace {
std::mt19937 random_bits(1);
int failures = 0, checks = 0;

template <class Value>
std::vector<Value> noise(std::size_t count, double low, double high) {
    std::uniform_real_distribution<double> spread(low, high);
    std::vector<Value> values(count);
    for (auto& value : values) value = static_cast<Value>(spread(random_bits));
    return values;
}

// Counts a failure if any value differs by more than is allowed.
template <class Value>
void expect(const char* what, const char* set, const std::vector<Value>& theirs,
            const std::vector<Value>& ours, double allowed) {
    double worst = 0;
    for (std::size_t i = 0; i < ours.size(); ++i)
        worst = std::fmax(worst, std::fabs(double(ours[i]) - double(theirs[i])));
    ++checks;
    if (!(worst <= allowed)) {
        ++failures;
        std::printf("%s, %s: differs by %g, allowed %g\n", set, what, worst, allowed);
    }
}

struct Picture {
    Layout layout;
    std::vector<std::uint8_t> planes[3];
    std::ptrdiff_t stride[3];

    Picture(int height, int width, int bits, bool halved) : layout{} {
        const int ch = halved ? (height + 1) / 2 : height, cw = halved ? (width + 1) / 2 : width;
        layout = Layout{height, width, ch, cw, bits, 0, false};
        const int size = bits == 8 ? 1 : 2;
        for (int p = 0; p < 3; ++p) {
            const int h = p ? ch : height, w = p ? cw : width;
            stride[p] = std::ptrdiff_t(w) * size;
            planes[p] = noise<std::uint8_t>(std::size_t(h) * w * size, 0, 255.99);
            if (size == 2)  // ten bits
                for (std::size_t i = 1; i < planes[p].size(); i += 2) planes[p][i] &= 3;
        }
    }
    Source source() const {
        return {{planes[0].data(), planes[1].data(), planes[2].data()},
                {stride[0], stride[1], stride[2]}};
    }
    Target target() {
        return {{planes[0].data(), planes[1].data(), planes[2].data()},
                {stride[0], stride[1], stride[2]}};
    }
};

Levels levels_of(int bits) {
    const float scale = float(1 << (bits - 8));
    return {16 * scale, 219 * scale, 128 * scale, 224 * scale};
}

void compare(const Kernels& ours, int height, int width, int bits, bool halved) {
    const Kernels& plain = baseline_kernels;
    const Picture frame(height, width, bits, halved), background(height, width, bits, halved);
    const Levels levels = levels_of(bits);
    const int h = 24, w = 40;
    const std::size_t n = std::size_t(h) * w;

    std::vector<float> rgb[2], ycbcr[2];
    for (int k = 0; k < 2; ++k) {
        rgb[k].resize(3 * n), ycbcr[k].resize(3 * n);
        (k ? ours : plain).resize_to_tensor({frame.layout, frame.source(), levels, {0.2126f, 0.0722f}, h, w, rgb[k].data(), ycbcr[k].data()}, 2);
    }
    expect("resize, RGB", ours.name, rgb[0], rgb[1], 2e-5);
    expect("resize, YCbCr", ours.name, ycbcr[0], ycbcr[1], 2e-5);

    const auto guide = noise<float>(n, 0, 1), alpha = noise<float>(n, 0, 1);
    std::vector<float> slope[2], offset[2];
    for (int k = 0; k < 2; ++k) {
        slope[k].resize(n), offset[k].resize(n);
        (k ? ours : plain).guided_coefficients({h, w, 4, 1e-4, guide.data(), alpha.data(), slope[k].data(), offset[k].data()}, 2);
    }
    expect("guided filter, slope", ours.name, slope[0], slope[1], 1e-3);
    expect("guided filter, offset", ours.name, offset[0], offset[1], 1e-3);

    const int radii[] = {6, 3};
    const auto color = noise<float>(3 * n, 0, 1);
    std::vector<float> guided[2];
    for (int k = 0; k < 2; ++k) {
        guided[k].resize(n);
        (k ? ours : plain).guided_alpha({h, w, 4, 0.1f, 1e-4, color.data(), alpha.data(), guided[k].data()}, 2);
    }
    expect("guided filter, alpha", ours.name, guided[0], guided[1], 1e-3);
    std::vector<float> front[2], back[2];
    for (int k = 0; k < 2; ++k) {
        front[k].resize(3 * n), back[k].resize(3 * n);
        (k ? ours : plain).estimate_foreground({h, w, radii, 2, {0, 0, 0}, {1, 1, 1}, color.data(), alpha.data(), front[k].data(), back[k].data()}, 2);
    }
    expect("foreground", ours.name, front[0], front[1], 1e-3);
    expect("background", ours.name, back[0], back[1], 1e-3);

    const int flow_h = 11, flow_w = 23;
    const auto quads = noise<float>(4 * n, 0, 1);
    const auto flow = noise<float>(std::size_t(2) * flow_h * flow_w, -9, 9);
    std::vector<float> moved[2], blended[2];
    for (int k = 0; k < 2; ++k) {
        moved[k].resize(4 * n), blended[k].resize(5 * n);
        const Kernels& kernels = k ? ours : plain;
        kernels.move({h, w, 4, flow_h, flow_w, quads.data(), flow.data(), moved[k].data()}, 2);
        float* const out = blended[k].data();
        // Noise misfits by more everywhere, so that no pixel's conflict is a matter of rounding.
        kernels.blend_moved({h, w, 3, 0.01f, 0.05f, alpha.data(), quads.data(), moved[0].data(), out, out + n, out + 2 * n, out + 3 * n, out + 4 * n}, 2);
        blended[k].erase(blended[k].begin() + 3 * n, blended[k].begin() + 4 * n);  // beta is ill-posed
    }
    expect("moved", ours.name, moved[0], moved[1], 1e-4);
    expect("blended", ours.name, blended[0], blended[1], 1e-4);

    const auto low_slope = noise<float>(n, -2, 2), low_offset = noise<float>(n, -1, 2);
    const auto shift = noise<float>(3 * n, -20, 20);
    Picture made[2] = {frame, frame};
    std::vector<std::uint8_t> mattes[2];
    const int size = bits == 8 ? 1 : 2;
    for (int k = 0; k < 2; ++k) {
        mattes[k].resize(std::size_t(height) * width * size);
        (k ? ours : plain).composite({frame.layout, frame.source(), background.source(), {}, made[k].target(), mattes[k].data(), std::ptrdiff_t(width) * size, levels, {low_slope.data(), h, w}, {low_offset.data(), h, w}, {shift.data(), h, w}, true}, 2);
    }
    // A code value is 1; of two bytes the lower one may wrap, so that whole samples are compared.
    for (int p = 0; p < 4; ++p) {
        const auto& a = p < 3 ? made[0].planes[p] : mattes[0];
        const auto& b = p < 3 ? made[1].planes[p] : mattes[1];
        std::vector<int> theirs, mine;
        for (std::size_t i = 0; i + size <= a.size(); i += size) {
            theirs.push_back(size == 1 ? a[i] : a[i] | a[i + 1] << 8);
            mine.push_back(size == 1 ? b[i] : b[i] | b[i + 1] << 8);
        }
        expect(p < 3 ? "composite" : "composite, alpha", ours.name, theirs, mine, 1);
    }

    auto values = noise<float>(1001, -1, 1);
    ++checks;
    bool same = ours.all_finite(values.data(), values.size());
    values[997] = std::nanf("");
    same = same && !ours.all_finite(values.data(), values.size());
    if (!same) ++failures, std::printf("%s, all_finite\n", ours.name);
}
}  // namespace

int main() {
    for (const Kernels* const* one = available_kernels(); *one; ++one) {
        if (*one == &baseline_kernels) continue;
        for (int bits : {8, 10})
            for (bool halved : {true, false})
                for (int width : {64, 67, 129}) compare(**one, 48 + width % 7, width, bits, halved);
        std::printf("%s: compared\n", (*one)->name);
    }
    std::printf("%d checks, %d failures\n", checks, failures);
    return failures || !checks;
}
