// The device code as plain C++, with a launch function that takes what cuLaunchKernel takes.
#include "kernels.h"

#include <map>
#include <string>
#include <utility>

#include "frame_path.cu"

thread_local Index blockIdx, blockDim, threadIdx;

namespace {

template <class... Arguments, std::size_t... I>
void call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<Arguments*>(arguments[I])...);
}

template <class... Arguments>
void run(void (*kernel)(Arguments...), Index grid, Index block, void** arguments) {
    blockDim = block;
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
                    call(kernel, arguments, std::index_sequence_for<Arguments...>{});
}

template <class... Arguments>
Kernel describe(void (*kernel)(Arguments...)) {
    Kernel described{[kernel](Index grid, Index block, void** arguments) {
                         run(kernel, grid, block, arguments);
                     },
                     {},
                     0};
    const std::pair<std::size_t, std::size_t> layouts[] = {
        {sizeof(Arguments), alignof(Arguments)}...};
    for (const auto& [size, alignment] : layouts) {
        const std::size_t offset = (described.size + alignment - 1) / alignment * alignment;
        described.offsets.push_back(offset);
        described.size = offset + size;
    }
    return described;
}

#define KERNEL(name) {#name, describe(name)}
const std::map<std::string, Kernel> kernels = {
    KERNEL(resize_to_tensor_8),
    KERNEL(resize_to_tensor_10),
    KERNEL(guided_columns),
    KERNEL(guided_solve),
    KERNEL(guided_mean_columns),
    KERNEL(guided_mean),
    KERNEL(guided_alpha_columns),
    KERNEL(guided_alpha_solve),
    KERNEL(guided_alpha_mean_columns),
    KERNEL(guided_alpha_mean),
    KERNEL(guided_alpha_apply),
    KERNEL(foreground_columns),
    KERNEL(foreground_solve),
    KERNEL(composite_8),
    KERNEL(composite_10),
    KERNEL(shrink),
    KERNEL(color_shift),
    KERNEL(blur_rows),
    KERNEL(blur_columns),
    KERNEL(grid_light),
    KERNEL(wrap_rows),
    KERNEL(wrap_columns),
    KERNEL(tint_columns),
    KERNEL(tint_mean),
    KERNEL(despill),
    KERNEL(apply_curve),
    KERNEL(turn),
};
#undef KERNEL

}  // namespace

const Kernel* find_kernel(const char* name) {
    const auto found = kernels.find(name);
    return found == kernels.end() ? nullptr : &found->second;
}

extern "C" bool launch(const char* name, unsigned grid_x, unsigned grid_y, unsigned block_x,
                       unsigned block_y, void** arguments) {
    const Kernel* kernel = find_kernel(name);
    if (kernel) kernel->run({grid_x, grid_y}, {block_x, block_y}, arguments);
    return kernel;
}
