// libcuda.so.1 without a GPU: what FuseMatte and PyCUDA call of CUDA's driver, on the CPU.
//
// Memory is the host's, and kernels are the device code compiled for the CPU.  It is stricter than
// a GPU.  Work on a stream is done when somebody waits for it and not before, so whoever reads or
// frees memory too early is found out.  Memory holds no numbers until it is written and after it is
// freed, its ends are guarded, and every call but the first ones needs a current context.
//
// Names, values and structures are those of NVIDIA's CUDA Driver API reference, version 13.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace {

enum Result {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kInvalidContext = 201,
    kNotFound = 500,
    kNoKernelImage = 209,
    kIllegalAddress = 700,
    kPrimaryContextActive = 708,
    kCaptureUnsupported = 900,
    kCaptureImplicit = 906,
};

using Operation = std::function<Result()>;
using Lock = std::unique_lock<std::mutex>;

struct Graph {
    std::vector<Operation> operations;
    bool broken = false;
};

struct Stream {
    unsigned flags = 0;
    std::deque<Operation> queue;
    std::uint64_t put = 0, done = 0;
    bool busy = false;
    std::unique_ptr<Graph> capture;
};

struct Record {
    Stream* stream = nullptr;
    std::uint64_t position = 0;
    std::chrono::steady_clock::time_point time;
};

struct Event {
    std::shared_ptr<Record> last;
};

constexpr unsigned kNonBlocking = 1;
constexpr std::size_t kGuard = 256, kTotalMemory = std::size_t{4} << 30;
constexpr unsigned char kNoNumber = 0xFF;
constexpr int kContext = 0x600D;

std::mutex mutex;
std::condition_variable moved;
Stream default_stream;
std::vector<Stream*> streams = {&default_stream};  // never deleted: events refer to them
std::map<std::uintptr_t, std::size_t> device_memory, pinned_memory;
std::size_t in_use = 0;
unsigned context_flags = 0, context_users = 0;
Result failure = kSuccess;
thread_local std::vector<void*> contexts;

void* context() { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(kContext)); }

Stream& stream_of(void* handle) {
    return handle ? *static_cast<Stream*>(handle) : default_stream;
}

bool lies_in(const std::map<std::uintptr_t, std::size_t>& memory, const void* data,
             std::size_t size) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    auto block = memory.upper_bound(address);
    return block != memory.begin() &&
           address + size <= (--block)->first + block->second;
}

bool on_device(const void* data, std::size_t size) {
    const Lock lock(mutex);
    return lies_in(device_memory, data, size);
}

bool is_pinned(const void* data, std::size_t size) {
    const Lock lock(mutex);
    return lies_in(pinned_memory, data, size);
}

// Does a stream's work up to a position; other threads may put more there meanwhile.
void drain(Stream& stream, std::uint64_t position, Lock& lock) {
    while (stream.done < position) {
        if (stream.busy) {
            moved.wait(lock);
            continue;
        }
        const Operation operation = std::move(stream.queue.front());
        stream.queue.pop_front();
        stream.busy = true;
        lock.unlock();
        const Result result = operation();
        lock.lock();
        stream.busy = false;
        ++stream.done;
        if (failure == kSuccess) failure = result;
        moved.notify_all();
    }
}

Result drain_all(Lock& lock) {
    for (Stream* stream : streams) {
        if (stream->capture) return stream->capture->broken = true, kCaptureUnsupported;
        drain(*stream, stream->put, lock);
    }
    return failure;
}

// Streams that were not made non-blocking take turns with the default stream.
Result keep_turns(Stream& stream, Lock& lock) {
    if (stream.flags & kNonBlocking) return kSuccess;
    for (Stream* other : streams) {
        if (other == &stream || (other->flags & kNonBlocking)) continue;
        if (&stream != &default_stream && other != &default_stream) continue;
        if (other->capture) return other->capture->broken = true, kCaptureImplicit;
        drain(*other, other->put, lock);
    }
    return kSuccess;
}

Result put(Stream& stream, Operation operation, Lock& lock) {
    if (contexts.empty()) return kInvalidContext;
    if (stream.capture) return stream.capture->operations.push_back(std::move(operation)), kSuccess;
    if (const Result result = keep_turns(stream, lock)) return result;
    stream.queue.push_back(std::move(operation));
    ++stream.put;
    return failure;
}

Result put(void* handle, Operation operation) {
    Lock lock(mutex);
    return put(stream_of(handle), std::move(operation), lock);
}

Result wait_for(Stream& stream) {
    Lock lock(mutex);
    if (contexts.empty()) return kInvalidContext;
    if (stream.capture) return stream.capture->broken = true, kCaptureUnsupported;
    drain(stream, stream.put, lock);
    return failure;
}

Operation copy(void* target, const void* source, std::size_t size, bool from_device,
               bool to_device) {
    return [=] {
        if (from_device && !on_device(source, size)) return kIllegalAddress;
        if (to_device && !on_device(target, size)) return kIllegalAddress;
        std::memcpy(target, source, size);
        return kSuccess;
    };
}

Result allocate(std::map<std::uintptr_t, std::size_t>& memory, void** target, std::size_t size) {
    const Lock lock(mutex);
    if (contexts.empty()) return kInvalidContext;
    if (size == 0) return kInvalidValue;
    if (in_use + size > kTotalMemory) return kOutOfMemory;
    auto* block = static_cast<unsigned char*>(std::aligned_alloc(
        kGuard, (size + 3 * kGuard - 1) / kGuard * kGuard));
    std::memset(block, kNoNumber, size + 2 * kGuard);
    *target = block + kGuard;
    memory[reinterpret_cast<std::uintptr_t>(*target)] = size;
    in_use += size;
    return kSuccess;
}

Result release(std::map<std::uintptr_t, std::size_t>& memory, void* data) {
    const Lock lock(mutex);
    if (contexts.empty()) return kInvalidContext;
    const auto found = memory.find(reinterpret_cast<std::uintptr_t>(data));
    if (found == memory.end()) return kInvalidValue;
    auto* begin = static_cast<unsigned char*>(data);
    const auto untouched = [](unsigned char byte) { return byte == kNoNumber; };
    auto* end = begin + found->second;
    if (!std::all_of(begin - kGuard, begin, untouched) || !std::all_of(end, end + kGuard, untouched)) {
        std::fprintf(stderr, "emulated driver: memory beside a block of %zu bytes was written\n",
                     found->second);
        std::abort();
    }
    std::memset(begin, kNoNumber, found->second);  // and given to nobody again
    in_use -= found->second;
    memory.erase(found);
    return kSuccess;
}

Result launch(const Kernel& kernel, Index grid, Index block, std::vector<unsigned char> packed) {
    std::vector<void*> arguments;
    for (const std::size_t offset : kernel.offsets) arguments.push_back(packed.data() + offset);
    kernel.run(grid, block, arguments.data());
    return kSuccess;
}

}  // namespace

extern "C" {

// ---- the driver, its one device, and the primary context

int cuInit(unsigned) { return kSuccess; }

int cuDriverGetVersion(int* version) { return *version = 13000, kSuccess; }

int cuDeviceGetCount(int* count) { return *count = 1, kSuccess; }

int cuDeviceGet(int* device, int ordinal) {
    return *device = ordinal, ordinal == 0 ? kSuccess : kInvalidValue;
}

int cuDeviceGetName(char* name, int length, int) {
    return std::snprintf(name, length, "no GPU, emulated on the CPU"), kSuccess;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
    constexpr int kMajor = 75, kMinor = 76;  // of the compute capability
    return *value = attribute == kMajor ? 8 : attribute == kMinor ? 9 : 1, kSuccess;
}

int cuDeviceComputeCapability(int* major, int* minor, int) {
    return *major = 8, *minor = 9, kSuccess;
}

int cuDevicePrimaryCtxSetFlags_v2(int, unsigned flags) {
    const Lock lock(mutex);
    if (context_users && flags != context_flags) return kPrimaryContextActive;
    return context_flags = flags, kSuccess;
}

int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) {
    return cuDevicePrimaryCtxSetFlags_v2(device, flags);
}

int cuDevicePrimaryCtxRetain(void** made, int) {
    const Lock lock(mutex);
    ++context_users;
    return *made = context(), kSuccess;
}

int cuDevicePrimaryCtxRelease_v2(int) {
    const Lock lock(mutex);
    return context_users ? (--context_users, kSuccess) : kInvalidContext;
}

int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }

int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
    const Lock lock(mutex);
    return *flags = context_flags, *active = context_users > 0, kSuccess;
}

int cuCtxPushCurrent_v2(void* pushed) {
    return pushed == context() ? (contexts.push_back(pushed), kSuccess) : kInvalidContext;
}

int cuCtxPopCurrent_v2(void** popped) {
    if (contexts.empty()) return kInvalidContext;
    if (popped) *popped = contexts.back();
    return contexts.pop_back(), kSuccess;
}

int cuCtxGetCurrent(void** current) {
    return *current = contexts.empty() ? nullptr : contexts.back(), kSuccess;
}

int cuCtxGetDevice(int* device) {
    return contexts.empty() ? kInvalidContext : (*device = 0, kSuccess);
}

int cuCtxSynchronize() {
    Lock lock(mutex);
    return contexts.empty() ? kInvalidContext : drain_all(lock);
}

// ---- memory

int cuMemAlloc_v2(void** target, std::size_t size) { return allocate(device_memory, target, size); }
int cuMemFree_v2(void* data) { return release(device_memory, data); }

int cuMemHostAlloc(void** target, std::size_t size, unsigned) {
    return allocate(pinned_memory, target, size);
}
int cuMemFreeHost(void* data) { return release(pinned_memory, data); }

int cuMemcpyHtoDAsync_v2(void* target, const void* source, std::size_t size, void* stream) {
    if (is_pinned(source, size)) return put(stream, copy(target, source, size, false, true));
    const auto* bytes = static_cast<const unsigned char*>(source);
    const std::vector<unsigned char> staged(bytes, bytes + size);  // as pageable memory is, at once
    return put(stream,
               [=] { return copy(target, staged.data(), staged.size(), false, true)(); });
}

int cuMemcpyDtoHAsync_v2(void* target, const void* source, std::size_t size, void* stream) {
    const Result result = put(stream, copy(target, source, size, true, false));
    return result || is_pinned(target, size) ? result : wait_for(stream_of(stream));
}

int cuMemcpyDtoDAsync_v2(void* target, const void* source, std::size_t size, void* stream) {
    return put(stream, copy(target, source, size, true, true));
}

int cuMemcpyHtoD_v2(void* target, const void* source, std::size_t size) {
    const Result result = put(nullptr, copy(target, source, size, false, true));
    return result ? result : wait_for(default_stream);
}

int cuMemcpyDtoH_v2(void* target, const void* source, std::size_t size) {
    const Result result = put(nullptr, copy(target, source, size, true, false));
    return result ? result : wait_for(default_stream);
}

struct Copy2D {  // CUDA_MEMCPY2D
    std::size_t source_x, source_y;
    int source_type;
    const unsigned char* source_host;
    const unsigned char* source_device;
    void* source_array;
    std::size_t source_pitch, target_x, target_y;
    int target_type;
    unsigned char* target_host;
    unsigned char* target_device;
    void* target_array;
    std::size_t target_pitch, width, height;
};

int cuMemcpy2DAsync_v2(const Copy2D* wanted, void* stream) {
    constexpr int kHost = 1, kDevice = 2;  // CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE
    const Copy2D job = *wanted;
    const bool from_device = job.source_type == kDevice, to_device = job.target_type == kDevice;
    if (!from_device && job.source_type != kHost) return kInvalidValue;
    if (!to_device && job.target_type != kHost) return kInvalidValue;
    if (job.width > job.source_pitch || job.width > job.target_pitch) return kInvalidValue;
    const Result result = put(stream, [=] {
        const auto* source = from_device ? job.source_device : job.source_host;
        auto* target = to_device ? job.target_device : job.target_host;
        for (std::size_t row = 0; row < job.height; ++row) {
            const auto* from = source + (job.source_y + row) * job.source_pitch + job.source_x;
            auto* to = target + (job.target_y + row) * job.target_pitch + job.target_x;
            if (const Result result = copy(to, from, job.width, from_device, to_device)())
                return result;
        }
        return kSuccess;
    });
    return result || (from_device && to_device) ? result : wait_for(stream_of(stream));
}

int cuMemsetD8Async(void* target, unsigned char value, std::size_t size, void* stream) {
    return put(stream, [=] {
        if (!on_device(target, size)) return kIllegalAddress;
        return std::memset(target, value, size), kSuccess;
    });
}

// ---- streams and events

int cuStreamCreate(void** made, unsigned flags) {
    const Lock lock(mutex);
    if (contexts.empty()) return kInvalidContext;
    auto* stream = new Stream;
    stream->flags = flags;
    streams.push_back(stream);
    return *made = stream, kSuccess;
}

int cuStreamDestroy_v2(void* stream) { return wait_for(stream_of(stream)); }
int cuStreamSynchronize(void* stream) { return wait_for(stream_of(stream)); }

int cuStreamWaitEvent(void* handle, void* event, unsigned) {
    const auto record = static_cast<Event*>(event)->last;
    if (!record) return kSuccess;
    return put(handle, [record] {
        Lock lock(mutex);
        return drain(*record->stream, record->position, lock), kSuccess;
    });
}

int cuLaunchHostFunc(void* stream, void (*call)(void*), void* data) {
    return put(stream, [=] { return call(data), kSuccess; });
}

int cuEventCreate(void** made, unsigned) {
    return contexts.empty() ? kInvalidContext : (*made = new Event, kSuccess);
}

int cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), kSuccess; }

int cuEventRecord(void* event, void* handle) {
    Lock lock(mutex);
    Stream& stream = stream_of(handle);
    if (stream.capture) return stream.capture->broken = true, kCaptureUnsupported;
    const auto record = static_cast<Event*>(event)->last = std::make_shared<Record>();
    const Result result = put(stream, [record] {
        return record->time = std::chrono::steady_clock::now(), kSuccess;
    }, lock);
    record->stream = &stream;
    record->position = stream.put;
    return result;
}

int cuEventSynchronize(void* event) {
    const auto record = static_cast<Event*>(event)->last;
    if (contexts.empty()) return kInvalidContext;
    if (!record) return kSuccess;
    Lock lock(mutex);
    drain(*record->stream, record->position, lock);
    return failure;
}

int cuEventElapsedTime_v2(float* milliseconds, void* begin, void* end) {
    const auto first = static_cast<Event*>(begin)->last, last = static_cast<Event*>(end)->last;
    if (!first || !last) return kInvalidValue;
    const std::chrono::duration<float, std::milli> passed = last->time - first->time;
    return *milliseconds = passed.count(), kSuccess;
}

// ---- modules and kernels

int cuModuleLoad(void** made, const char* path) {
    std::uint32_t magic = 0;
    std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&magic), sizeof magic);
    constexpr std::uint32_t kFatbin = 0xBA55ED50;
    return magic == kFatbin ? (*made = context(), kSuccess) : kNoKernelImage;
}

int cuModuleUnload(void*) { return kSuccess; }

int cuModuleGetFunction(const Kernel** found, void*, const char* name) {
    *found = find_kernel(name);
    return *found ? kSuccess : kNotFound;
}

int cuFuncGetAttribute(int* value, int, void*) { return *value = 0, kSuccess; }
int cuFuncSetBlockShape(void*, int, int, int) { return kSuccess; }

int cuLaunchKernel(const Kernel* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned, void* stream,
                   void** pointers, void** extra) {
    const bool fits = grid_x && grid_y && grid_y < 65536 && grid_z == 1 && block_z == 1 &&
                      block_x && block_y && block_x * block_y <= 1024;
    // CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE: how PyCUDA passes arguments.
    if (!fits || pointers || !extra || extra[0] != reinterpret_cast<void*>(1) ||
        extra[2] != reinterpret_cast<void*>(2))
        return kInvalidValue;
    const auto* bytes = static_cast<const unsigned char*>(extra[1]);
    const std::size_t size = *static_cast<const std::size_t*>(extra[3]);
    if (size != kernel->size) return kInvalidValue;
    const std::vector<unsigned char> packed(bytes, bytes + size);
    const Index grid{grid_x, grid_y}, block{block_x, block_y};
    return put(stream, [=] { return launch(*kernel, grid, block, packed); });
}

// ---- graphs

int cuStreamBeginCapture_v2(void* handle, int) {
    const Lock lock(mutex);
    Stream& stream = stream_of(handle);
    if (&stream == &default_stream || stream.capture) return kCaptureUnsupported;
    return stream.capture = std::make_unique<Graph>(), kSuccess;
}

int cuStreamEndCapture(void* handle, Graph** made) {
    const Lock lock(mutex);
    Stream& stream = stream_of(handle);
    if (!stream.capture) return kInvalidValue;
    *made = stream.capture.release();
    return (*made)->broken ? kCaptureUnsupported : kSuccess;
}

int cuGraphInstantiateWithFlags(std::shared_ptr<Graph>** made, Graph* graph, unsigned long long) {
    return *made = new std::shared_ptr<Graph>(std::make_shared<Graph>(*graph)), kSuccess;
}

int cuGraphDestroy(Graph* graph) { return delete graph, kSuccess; }

int cuGraphLaunch(std::shared_ptr<Graph>* instance, void* stream) {
    return put(stream, [graph = *instance] {
        for (const Operation& operation : graph->operations)
            if (const Result result = operation()) return result;
        return kSuccess;
    });
}

int cuGraphExecDestroy(std::shared_ptr<Graph>* instance) { return delete instance, kSuccess; }

// ---- errors

int cuGetErrorString(int code, const char** text) {
    static const std::map<int, const char*> texts = {
        {kInvalidValue, "invalid argument"}, {kOutOfMemory, "out of memory"},
        {kInvalidContext, "no current context"}, {kNotFound, "no such kernel"},
        {kNoKernelImage, "no module for this device"}, {kIllegalAddress, "illegal address"},
        {kPrimaryContextActive, "the primary context is active"},
        {kCaptureUnsupported, "not permitted while a stream is captured"},
        {kCaptureImplicit, "the default stream waits for a stream that is captured"},
    };
    const auto found = texts.find(code);
    return *text = found == texts.end() ? "not emulated" : found->second, kSuccess;
}

}  // extern "C"
