// The device code as plain C++, with a launch function that takes what cuLaunchKernel takes.
#include "frame_path.cu"

#include <cstring>
#include <utility>

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

}  // namespace

extern "C" bool launch(const char* name, unsigned grid_x, unsigned grid_y, unsigned block_x,
                       unsigned block_y, void** arguments) {
    const Index grid{grid_x, grid_y}, block{block_x, block_y};
#define LAUNCH(kernel) \
    if (!std::strcmp(name, #kernel)) return run(kernel, grid, block, arguments), true;
    LAUNCH(resize_to_tensor_8)
    LAUNCH(resize_to_tensor_10)
    LAUNCH(guided_gray_columns)
    LAUNCH(guided_gray_solve)
    LAUNCH(guided_gray_mean_columns)
    LAUNCH(guided_gray_mean)
    LAUNCH(guided_rgb_columns)
    LAUNCH(guided_rgb_solve)
    LAUNCH(guided_rgb_mean_columns)
    LAUNCH(guided_rgb_mean)
    LAUNCH(foreground_columns)
    LAUNCH(foreground_solve)
    LAUNCH(composite_8)
    LAUNCH(composite_10)
    LAUNCH(shrink)
    LAUNCH(refine_offset)
    LAUNCH(color_shift)
    LAUNCH(blur_rows)
    LAUNCH(blur_columns)
#undef LAUNCH
    return false;
}
