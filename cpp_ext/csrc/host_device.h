// Lets device code compile as plain C++, so that its arithmetic runs, and is tested, without a GPU.
#pragma once

#ifndef __CUDACC__
#define __global__
#define __device__

struct Index {
    unsigned x, y;
};
extern thread_local Index blockIdx, blockDim, threadIdx;
#endif
