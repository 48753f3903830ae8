// The device's kernels as plain C++, by name.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "csrc/host_device.h"

struct Kernel {
    std::function<void(Index grid, Index block, void** arguments)> run;
    std::vector<std::size_t> offsets;  // of the arguments in a block packed as C packs a structure
    std::size_t size;                  // of that block
};

const Kernel* find_kernel(const char* name);
