// A stand-in for `libcuda.so.1`: the functions of the driver that Kiln's runtime calls, over host memory and the emulator.
//
// A module is a shared library that a host compiler made of the same source as nvcc's. So memory plans, arguments, launches, graph capture
// and what happens after an error are tested as they are, without a GPU. Environment: KILN_EMULATE_ORDER (`forward`, `reverse` or
// `random`) is the order of threads, KILN_EMULATE_SEED its seed, KILN_EMULATE_LOG=1 prints what was launched, KILN_EMULATE_LEVEL is the compute
// capability that the device says it has (90, that of an H100, by default).
#include "emulator_host.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <string>
#include <vector>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_HANDLE = 400,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    STREAM_CAPTURE_INVALIDATED = 901,
};

struct Function {
    std::string name;
    bool (*run)(const unsigned*, size_t, const uint64_t*);
    // Words of each argument, with a zero behind them.
    const unsigned* arguments;
    size_t shared = 48 << 10;
};
struct Module {
    void* library;
    std::map<std::string, Function*> functions;
};
// An event: when it was noted last, in seconds. One that was captured without a node of its own has no time.
struct Event {
    bool noted = false;
    double at = 0;
};
// What a stream does: a copy, a fill, a launch, or the note of an event at `to`.
struct Work {
    enum { Copy, Fill, Launch, Note } kind;
    void* to;
    const void* from;
    size_t bytes;
    int value;
    Function* function;
    unsigned shape[6];
    size_t shared;
    std::vector<uint64_t> arguments;
    // Whether a launch begins before the one before it has ended.
    bool overlap = false;
};
// As the driver API has them.
struct LaunchAttribute {
    int id;
    union alignas(8) {
        char whole[64];
        int allowed;
    };
};
struct LaunchConfig {
    unsigned shape[6], shared;
    void* stream;
    LaunchAttribute* attributes;
    unsigned count;
};
struct Graph {
    std::vector<Work> work;
};
struct Stream {
    bool capturing = false;
    std::vector<Work> captured;
};

// Most of the 227 KiB of sm_90 that a block can have.
constexpr size_t MOST_SHARED = 232448;
constexpr size_t SPACE = size_t(1) << 36;

char* space = nullptr;
size_t used = 0;
std::map<uintptr_t, size_t> allocated;
bool initialized = false, current = false;
int broken = SUCCESS;
bool checked = false;
// Whether the work before was a launch: only that can overlap with the next.
bool behind_launch = false;
unsigned long launches = 0;

bool logs() {
    static const bool on = std::getenv("KILN_EMULATE_LOG") != nullptr;
    return on;
}

int level() {
    const char* named = std::getenv("KILN_EMULATE_LEVEL");
    return named ? std::atoi(named) : 90;
}

// Kernels look for the emulator's functions among those that are visible everywhere.
void show_functions() {
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&show_functions), &info)) dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
}

double now() {
    std::timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) / 1e9;
}

bool inside(const void* at, size_t bytes) {
    auto next = allocated.upper_bound(reinterpret_cast<uintptr_t>(at));
    if (next == allocated.begin()) return bytes == 0;
    --next;
    return reinterpret_cast<uintptr_t>(at) + bytes <= next->first + next->second;
}

int carry_out(const Work& w) {
    if (broken) return broken;
    if (w.overlap && !behind_launch) {
        std::fprintf(stderr, "emulator: %s overlaps with what is no launch\n", w.function->name.c_str());
        return broken = LAUNCH_FAILED;
    }
    behind_launch = w.kind == Work::Launch;
    kiln::emu::set_overlap(w.overlap);
    switch (w.kind) {
        case Work::Copy:
            std::memcpy(w.to, w.from, w.bytes);
            return SUCCESS;
        case Work::Fill:
            std::memset(w.to, w.value, w.bytes);
            return SUCCESS;
        case Work::Note:
            *static_cast<Event*>(w.to) = {true, now()};
            return SUCCESS;
        default:
            break;
    }
    if (w.shared > w.function->shared) {
        std::fprintf(stderr, "emulator: %s asks for %zu bytes of shared memory, and was allowed %zu\n", w.function->name.c_str(), w.shared, w.function->shared);
        return broken = LAUNCH_FAILED;
    }
    const double from = now();
    launches++;
    if (!w.function->run(w.shape, w.shared, w.arguments.data())) {
        std::fprintf(stderr, "emulator: %s: %s\n", w.function->name.c_str(), kiln::emu::failure());
        return broken = LAUNCH_FAILED;
    }
    if (logs()) std::fprintf(stderr, "emulator: %s of %u x %u x %u blocks, %.1f ms\n", w.function->name.c_str(), w.shape[0], w.shape[1], w.shape[2], (now() - from) * 1e3);
    return SUCCESS;
}

int post(void* stream, Work w) {
    if (!current) return INVALID_CONTEXT;
    if (broken) return broken;
    auto* s = static_cast<Stream*>(stream);
    if (s && s->capturing) {
        s->captured.push_back(std::move(w));
        return SUCCESS;
    }
    return carry_out(w);
}

}  // namespace

namespace kiln::emu {
bool in_device_space(const void* at) { return at >= space && at < space + SPACE; }
bool checks_accesses() { return checked; }
}  // namespace kiln::emu

extern "C" {

int cuInit(unsigned) {
    if (initialized) return SUCCESS;
    show_functions();
    void* at = mmap(nullptr, SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return OUT_OF_MEMORY;
    space = static_cast<char*>(at);
    const char *order = std::getenv("KILN_EMULATE_ORDER"), *seed = std::getenv("KILN_EMULATE_SEED");
    std::string name = order ? order : "forward";
    using kiln::emu::Order;
    kiln::emu::set_order(name == "reverse" ? Order::Reverse : name == "random" ? Order::Random : Order::Forward, seed ? std::strtoull(seed, nullptr, 10) : 1);
    initialized = true;
    return SUCCESS;
}
int cuDeviceGetCount(int* count) {
    *count = 1;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}
int cuDeviceGet(int* device, int i) {
    *device = 0;
    return i == 0 ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, size_t(length), "Kiln emulator");
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    if (attribute != 75 && attribute != 76) return INVALID_VALUE;
    *value = attribute == 75 ? level() / 10 : level() % 10;
    return SUCCESS;
}
int cuDeviceGetUuid_v2(unsigned char* uuid, int) {
    std::memset(uuid, 0, 16);
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    static int one;
    *context = &one;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void* context) {
    current = context != nullptr;
    return SUCCESS;
}
int cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    if (broken) return broken;
    if (bytes == 0) return INVALID_VALUE;
    used = (used + 4096 + 255) / 256 * 256;
    if (used + bytes > SPACE) return OUT_OF_MEMORY;
    char* memory = space + used;
    used += bytes;
    std::memset(memory, 0xff, bytes);
    allocated[reinterpret_cast<uintptr_t>(memory)] = bytes;
    kiln::emu::add_memory(memory, bytes);
    *at = reinterpret_cast<uintptr_t>(memory);
    return SUCCESS;
}
int cuMemFree_v2(uint64_t at) {
    auto found = allocated.find(at);
    if (found == allocated.end()) return INVALID_VALUE;
    kiln::emu::remove_memory(reinterpret_cast<void*>(at));
    uintptr_t from = (at + 4095) / 4096 * 4096, to = (at + found->second) / 4096 * 4096;
    if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
    allocated.erase(found);
    return SUCCESS;
}
int cuMemAllocHost_v2(void** at, size_t bytes) {
    *at = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *at ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* at) {
    std::free(at);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    if (!inside(reinterpret_cast<void*>(to), bytes)) return INVALID_VALUE;
    return post(stream, {Work::Copy, reinterpret_cast<void*>(to), from, bytes, 0, nullptr, {}, 0, {}});
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    if (!inside(reinterpret_cast<void*>(from), bytes)) return INVALID_VALUE;
    return post(stream, {Work::Copy, to, reinterpret_cast<void*>(from), bytes, 0, nullptr, {}, 0, {}});
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    if (!inside(reinterpret_cast<void*>(to), bytes) || !inside(reinterpret_cast<void*>(from), bytes)) return INVALID_VALUE;
    return post(stream, {Work::Copy, reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, 0, nullptr, {}, 0, {}});
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
    if (!inside(reinterpret_cast<void*>(to), bytes)) return INVALID_VALUE;
    return post(stream, {Work::Fill, reinterpret_cast<void*>(to), nullptr, bytes, value, nullptr, {}, 0, {}});
}
int cuModuleLoadData(void** module, const void* image) {
    Elf64_Ehdr header;
    std::memcpy(&header, image, sizeof header);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_type != ET_DYN) return INVALID_IMAGE;
    size_t bytes = header.e_shoff + size_t(header.e_shentsize) * header.e_shnum;
    int file = memfd_create("kiln-module", 0);
    if (file < 0) return OUT_OF_MEMORY;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(file, static_cast<const char*>(image) + done, bytes - done);
        if (n <= 0) return OUT_OF_MEMORY;
        done += size_t(n);
    }
    std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    close(file);
    if (!library) {
        std::fprintf(stderr, "emulator: %s\n", dlerror());
        return INVALID_IMAGE;
    }
    checked = checked || dlsym(library, "kiln_checked") != nullptr;
    *module = new Module{library, {}};
    return SUCCESS;
}
int cuModuleUnload(void* module) {
    auto* m = static_cast<Module*>(module);
    for (auto& f : m->functions) delete f.second;
    dlclose(m->library);
    delete m;
    return SUCCESS;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    auto* m = static_cast<Module*>(module);
    Function*& f = m->functions[name];
    if (!f) {
        auto run = dlsym(m->library, (std::string(name) + "_emulated").c_str());
        auto arguments = dlsym(m->library, (std::string(name) + "_arguments").c_str());
        if (!run || !arguments) return NOT_FOUND;
        // Kernels that take maps are code for sm_90a alone.
        const unsigned* words = reinterpret_cast<const unsigned* (*)()>(arguments)();
        for (const unsigned* w = words; *w; w++)
            if (*w > 1 && level() != 90) return NOT_FOUND;
        f = new Function{name, reinterpret_cast<bool (*)(const unsigned*, size_t, const uint64_t*)>(run), words};
    }
    *function = f;
    return SUCCESS;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute != 8) return SUCCESS;
    if (value < 0 || size_t(value) > MOST_SHARED) return INVALID_VALUE;
    static_cast<Function*>(function)->shared = size_t(value);
    return SUCCESS;
}
// Only what Kiln asks for: rows of 128-byte boxes of 16-bit elements that are swizzled by 128 bytes. What hardware asks of a map is asked here.
int cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* extents, const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                           int interleave, int swizzle, int promotion, int fill) {
    constexpr int UINT16 = 1, SWIZZLE_128B = 3, L2_256B = 3;
    if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || type != UINT16 || rank != 2 || interleave != 0 || swizzle != SWIZZLE_128B || promotion > L2_256B || fill != 0) return INVALID_VALUE;
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0 || strides[0] % 16 != 0 || strides[0] >> 40 != 0) return INVALID_VALUE;
    for (int i = 0; i < 2; i++)
        if (extents[i] == 0 || extents[i] >> 32 != 0 || box[i] == 0 || box[i] > 256 || steps[i] != 1) return INVALID_VALUE;
    if (box[0] * 2 != 128 || extents[0] * 2 > strides[0]) return INVALID_VALUE;
    const kiln::emu::Map made{kiln::emu::MAP_MAGIC, reinterpret_cast<uintptr_t>(address), {extents[0], extents[1]}, strides[0], {box[0], box[1]}, 2};
    std::memset(map, 0, 128);
    std::memcpy(map, &made, sizeof made);
    return SUCCESS;
}
int cuLaunchKernelEx(const void* config, void* function, void** arguments, void**) {
    constexpr int PROGRAMMATIC_STREAM_SERIALIZATION = 6;
    auto* c = static_cast<const LaunchConfig*>(config);
    auto* f = static_cast<Function*>(function);
    const unsigned* s = c->shape;
    if (!s[0] || !s[1] || !s[2] || s[1] > 65535 || s[2] > 65535 || !s[3] || s[3] * s[4] * s[5] > 1024) return INVALID_VALUE;
    Work w{Work::Launch, nullptr, nullptr, 0, 0, f, {s[0], s[1], s[2], s[3], s[4], s[5]}, c->shared, {}};
    for (unsigned i = 0; i < c->count; i++) {
        if (c->attributes[i].id != PROGRAMMATIC_STREAM_SERIALIZATION) return INVALID_VALUE;
        w.overlap = c->attributes[i].allowed != 0;
    }
    for (unsigned i = 0; f->arguments[i]; i++) {
        auto* words = static_cast<const uint64_t*>(arguments[i]);
        w.arguments.insert(w.arguments.end(), words, words + f->arguments[i]);
    }
    return post(c->stream, std::move(w));
}
int cuStreamCreate(void** stream, unsigned) {
    *stream = new Stream;
    return SUCCESS;
}
int cuStreamDestroy_v2(void* stream) {
    delete static_cast<Stream*>(stream);
    return SUCCESS;
}
int cuStreamSynchronize(void* stream) {
    auto* s = static_cast<Stream*>(stream);
    if (s && s->capturing) return STREAM_CAPTURE_UNSUPPORTED;
    return broken;
}
int cuStreamBeginCapture_v2(void* stream, int) {
    auto* s = static_cast<Stream*>(stream);
    if (s->capturing) return STREAM_CAPTURE_INVALIDATED;
    s->capturing = true;
    s->captured.clear();
    return broken;
}
int cuStreamEndCapture(void* stream, void** graph) {
    auto* s = static_cast<Stream*>(stream);
    if (!s->capturing) return STREAM_CAPTURE_INVALIDATED;
    s->capturing = false;
    *graph = new Graph{std::move(s->captured)};
    return broken;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    *executable = new Graph(*static_cast<Graph*>(graph));
    return SUCCESS;
}
int cuGraphLaunch(void* executable, void*) {
    for (const Work& w : static_cast<Graph*>(executable)->work)
        if (int wrong = carry_out(w)) return wrong;
    return SUCCESS;
}
int cuGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return SUCCESS;
}
int cuGraphExecDestroy(void* executable) {
    delete static_cast<Graph*>(executable);
    return SUCCESS;
}
int cuEventCreate(void** event, unsigned) {
    *event = new Event;
    return SUCCESS;
}
int cuEventDestroy_v2(void* event) {
    delete static_cast<Event*>(event);
    return SUCCESS;
}
int cuEventRecordWithFlags(void* event, void* stream, unsigned flags) {
    constexpr unsigned EXTERNAL = 1;
    auto* s = static_cast<Stream*>(stream);
    const bool capturing = s && s->capturing;
    if (flags == EXTERNAL && !capturing) return INVALID_VALUE;
    // Without the flag an event of a capture only orders its work.
    if (flags != EXTERNAL && capturing) {
        static_cast<Event*>(event)->noted = false;
        return SUCCESS;
    }
    return post(stream, {Work::Note, event, nullptr, 0, 0, nullptr, {}, 0, {}});
}
int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    auto *a = static_cast<Event*>(from), *b = static_cast<Event*>(to);
    if (!a->noted || !b->noted) return INVALID_HANDLE;
    *milliseconds = float((b->at - a->at) * 1e3);
    return SUCCESS;
}
int cuGetErrorString(int error, const char** text) {
    *text = error == LAUNCH_FAILED ? "unspecified launch failure" : error == OUT_OF_MEMORY ? "out of memory" : error == INVALID_IMAGE ? "device kernel image is invalid" : "an error of the emulator";
    return SUCCESS;
}
}
