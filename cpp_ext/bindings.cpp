// The only file that knows Python.  fusematte.cpp_ext checks every argument before it calls here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/kernels.h"

namespace py = pybind11;
using namespace fusematte;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Arrays = std::vector<py::array>;

std::atomic<const Kernels*> active{nullptr};

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (auto list = available_kernels(); *list; ++list) names.emplace_back((*list)->name);
    return names;
}

void use_instruction_set(const std::string& name) {
    for (auto list = available_kernels(); *list; ++list)
        if (name == (*list)->name) {
            active = *list;
            return;
        }
    throw py::value_error("name: this build or processor has no instruction set " + name);
}

bool all_finite(const Floats& array) {
    return active.load()->all_finite(array.data(), static_cast<std::size_t>(array.size()));
}

Source source(const Arrays& planes) {
    Source result{};
    for (std::size_t i = 0; i < planes.size(); ++i) {
        result.data[i] = static_cast<const std::uint8_t*>(planes[i].data());
        result.stride[i] = planes[i].strides(0);
    }
    return result;
}

Target target(Arrays& planes) {
    Target result{};
    for (std::size_t i = 0; i < planes.size(); ++i) {
        result.data[i] = static_cast<std::uint8_t*>(planes[i].mutable_data());
        result.stride[i] = planes[i].strides(0);
    }
    return result;
}

Layout layout(const Arrays& planes) {
    const bool interleaved = planes.size() == 2, wide = planes[0].itemsize() == 2;
    Layout result{};
    result.height = static_cast<int>(planes[0].shape(0));
    result.width = static_cast<int>(planes[0].shape(1));
    result.chroma_height = static_cast<int>(planes[1].shape(0));
    result.chroma_width = static_cast<int>(planes[1].shape(1));
    result.bits = wide ? 10 : 8;
    result.low_bits = interleaved && wide ? 6 : 0;
    result.interleaved = interleaved;
    return result;
}

Levels levels(const std::array<float, 4>& values) {
    return {values[0], values[1], values[2], values[3]};
}

int size(const py::array& array, int axis) {
    return static_cast<int>(array.shape(array.ndim() + axis));
}

void resize_to_tensor(const Arrays& planes, const std::array<float, 2>& matrix,
                      const std::array<float, 4>& level, std::optional<Floats> rgb, Floats ycbcr,
                      int threads) {
    const ResizeJob job{layout(planes),
                        source(planes),
                        levels(level),
                        {matrix[0], matrix[1]},
                        size(ycbcr, -2),
                        size(ycbcr, -1),
                        rgb ? rgb->mutable_data() : nullptr,
                        ycbcr.mutable_data()};
    const py::gil_scoped_release release;
    active.load()->resize_to_tensor(job, threads);
}

void guided_coefficients(const Floats& guide, const Floats& alpha, int radius, double epsilon,
                         Floats slope, Floats offset, int threads) {
    const GuidedJob job{size(alpha, -2),
                        size(alpha, -1),
                        radius,
                        epsilon,
                        guide.data(),
                        alpha.data(),
                        slope.mutable_data(),
                        offset.mutable_data()};
    const py::gil_scoped_release release;
    active.load()->guided_coefficients(job, threads);
}

void guided_alpha(const Floats& guide, const Floats& alpha, int radius, double epsilon,
                  float certain, Floats out, int threads) {
    const GuidedAlphaJob job{size(alpha, -2),
                             size(alpha, -1),
                             radius,
                             certain,
                             epsilon,
                             guide.data(),
                             alpha.data(),
                             out.mutable_data()};
    const py::gil_scoped_release release;
    active.load()->guided_alpha(job, threads);
}

void estimate_foreground(const Floats& color, const Floats& alpha, const std::vector<int>& radii,
                         const std::array<float, 3>& lower, const std::array<float, 3>& upper,
                         Floats foreground, Floats background, int threads) {
    const ForegroundJob job{size(alpha, -2),
                            size(alpha, -1),
                            radii.data(),
                            static_cast<int>(radii.size()),
                            {lower[0], lower[1], lower[2]},
                            {upper[0], upper[1], upper[2]},
                            color.data(),
                            alpha.data(),
                            foreground.mutable_data(),
                            background.mutable_data()};
    const py::gil_scoped_release release;
    active.load()->estimate_foreground(job, threads);
}

Grid grid(const std::optional<Floats>& array) {
    if (!array) return {nullptr, 0, 0};
    return {array->data(), size(*array, -2), size(*array, -1)};
}

void composite(const Arrays& planes, const Arrays& background,
               const std::optional<Floats>& small_background, const Floats& slope,
               const Floats& offset, const std::optional<Floats>& shift,
               bool keep_solid, const std::array<float, 4>& level, Arrays out,
               std::optional<py::array> alpha, int threads) {
    const CompositeJob job{layout(planes),
                           source(planes),
                           source(background),
                           grid(small_background),
                           target(out),
                           alpha ? static_cast<std::uint8_t*>(alpha->mutable_data()) : nullptr,
                           alpha ? alpha->strides(0) : 0,
                           levels(level),
                           grid(slope),
                           grid(offset),
                           grid(shift),
                           keep_solid};
    const py::gil_scoped_release release;
    active.load()->composite(job, threads);
}

void move(const Floats& planes, const Floats& flow, Floats out, int threads) {
    const MoveJob job{static_cast<int>(planes.shape(0)),
                      static_cast<int>(planes.shape(1)),
                      planes.ndim() == 3 ? static_cast<int>(planes.shape(2)) : 1,
                      static_cast<int>(flow.shape(0)),
                      static_cast<int>(flow.shape(1)),
                      planes.data(),
                      flow.data(),
                      out.mutable_data()};
    const py::gil_scoped_release release;
    active.load()->move(job, threads);
}

void blend_moved(const Floats& luma, const Floats& first, const Floats& second, int radius,
                 float noise, float unfit, std::array<std::optional<Floats>, 5> out, int threads) {
    const auto data = [&](int k) { return out[k] ? out[k]->mutable_data() : nullptr; };
    const BlendMovedJob job{size(luma, -2), size(luma, -1), radius,        noise,
                            unfit,          luma.data(),    first.data(),  second.data(),
                            data(0),        data(1),        data(2),       data(3),
                            data(4)};
    const py::gil_scoped_release release;
    active.load()->blend_moved(job, threads);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    use_instruction_set(instruction_sets().back());
    module.def("instruction_sets", instruction_sets);
    module.def("use_instruction_set", use_instruction_set);
    module.def("all_finite", all_finite);
    module.def("resize_to_tensor", resize_to_tensor);
    module.def("guided_coefficients", guided_coefficients);
    module.def("guided_alpha", guided_alpha);
    module.def("estimate_foreground", estimate_foreground);
    module.def("composite", composite);
    module.def("move", move);
    module.def("blend_moved", blend_moved);
}
