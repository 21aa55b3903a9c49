// The emulator: blocks one after the other, a fibre for every thread, and the checks that a GPU does not make.
//
// Kernels that were compiled with `-fsanitize=thread` (and linked without its library) report every access to the functions at the end:
// two threads that meet in shared memory without a barrier between them, and accesses outside of device memory, become errors.
#include "emulator.h"
#include "emulator_host.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace kiln::emu {

Thread* kiln_emu_thread = nullptr;
Index kiln_emu_block, kiln_emu_block_dim, kiln_emu_grid_dim;
unsigned char* kiln_emu_shared = nullptr;

namespace {

constexpr size_t STACK = 64 * 1024;
constexpr unsigned WARP = 32;
// Bytes behind shared memory that nobody may touch.
constexpr size_t GUARD = 16 * 1024;
// The operation that is a barrier of a warp.
constexpr unsigned BARRIER = 3;

// The most barriers in shared memory that a block can make here.
constexpr unsigned MOST_GATES = 64;
// Registers of a multiprocessor.
constexpr unsigned REGISTERS = 65536;

enum class State : uint8_t { Ready, AtBarrier, AtPart, AtGate, AtRegisters, Meeting, Done };

struct Copy {
    unsigned char* to;
    const unsigned char* from;
    unsigned bytes, valid;
};

#if defined(__x86_64__)
// What a fibre needs to go on: its stack pointer. The callee-saved registers lie on its stack.
struct Context {
    void* stack = nullptr;
};
extern "C" void kiln_emu_switch(void** from, void* to);
asm(R"(
.text
.type kiln_emu_switch,@function
kiln_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size kiln_emu_switch,.-kiln_emu_switch
)");
void change(Context& from, Context& to) { kiln_emu_switch(&from.stack, to.stack); }
void prepare(Context& c, unsigned char* stack, void (*entry)()) {
    // Six registers, the address to return to, and the word that a call would have left, which also keeps the stack aligned.
    void** top = reinterpret_cast<void**>(stack + STACK) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    c.stack = top;
}
#else
struct Context {
    ucontext_t at;
};
void change(Context& from, Context& to) { swapcontext(&from.at, &to.at); }
void prepare(Context& c, unsigned char* stack, void (*entry)()) {
    getcontext(&c.at);
    c.at.uc_stack.ss_sp = stack;
    c.at.uc_stack.ss_size = STACK;
    c.at.uc_link = nullptr;
    makecontext(&c.at, entry, 0);
}
#endif

struct Fibre : Thread {
    Context context;
    State state;
    // Whether the launch before has ended for this thread.
    bool waited;
    // Whether it wrote to shared memory what units of four warps do not see yet.
    bool unseen;
    // Which barrier in shared memory it waits at.
    const void* at;
    // Whether its number of registers has changed, how often it has arrived at barriers in shared memory, and what it knows of others.
    bool moved;
    uint32_t arrivals;
    std::vector<uint32_t> known;
    // Asynchronous copies not yet carried out, and how many of them each group commits.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
};

struct Warp {
    unsigned live = 0, arrived = 0, op = 0;
    // Since which barrier of the warp: only those order what its lanes do in memory.
    uint32_t epoch = 1;
    void* lanes[WARP];
    // Products not yet carried out, and how many of them each group commits.
    std::vector<Deferred> products;
    std::vector<size_t> groups;
    // Groups that were ever committed.
    uint32_t committed = 0;
};

// Who touched a byte of shared memory last: behind which barriers of the block and of its warp, and behind how many arrivals of its own;
// and whether several threads, or threads of several warps, did.
struct Touch {
    uint32_t epoch = 0, warp_epoch = 0, arrivals = 0;
    uint16_t thread = 0;
    bool many = false, warps = false;
};
struct Cell {
    Touch written, read;
};
// The phase of a barrier, plus one, in which a bulk copy to a chunk of shared memory ends.
struct Brought {
    uint16_t gate = 0;
    uint32_t phase = 0;
};

// A barrier in shared memory: where it lies, arrivals of a phase, what is missing from this one, and how many phases have ended.
struct Gate {
    size_t at;
    unsigned arrivals, pending;
    long bytes;
    uint32_t phase;
    // Who made it, whether the accelerator knows it, and who touched it so.
    unsigned maker;
    bool shown;
    Touch made;
    // Phases that each thread has waited for; what those know who arrive, and who arrived in phases that have ended.
    std::vector<uint32_t> seen, arriving, arrived;
};
// A bulk copy under way, to a byte of shared memory.
struct Bulk {
    Map map;
    int column, row;
    size_t to;
    uint16_t gate;
};

// Memory of the device, and whether a kernel has written to it.
struct Range {
    size_t bytes;
    bool written;
};

struct Machine {
    std::vector<Fibre> fibres;
    std::vector<Warp> warps;
    std::vector<uint64_t> ready;
    Context outside;
    unsigned count = 0, live = 0, waiting = 0;
    void (*body)(const void*) = nullptr;
    const void* argument = nullptr;
    Order order = Order::Forward;
    uint64_t random = 1;
    bool failed = false, overlap = false;
    // Whether threads came with such writes to the last barrier, or to the next one.
    bool unseen = false, unseen_next = false;
    // Since which barrier: accesses of two threads in one epoch are not ordered.
    uint32_t epoch = 1;
    std::vector<Cell> cells;
    // See `emulator_races.h`: readers of words, and of each chunk which copy brings it and the last group of each warp's products that reads it.
    std::vector<uint32_t> readers, multiplied;
    std::vector<Brought> brought;
    // Whether the block has units or barriers of which threads know; whether accesses are those of products, or of ones seen before.
    bool knowing = false, multiplying = false, carrying_out = false;
    std::vector<Gate> gates;
    std::vector<Bulk> bulks;
    // Who waits at barriers of some warps.
    std::vector<unsigned> parts[16];
    // Registers that the launch gave a thread, and those that threads have left to others.
    unsigned launched = 0, spare = 0;
    size_t shared = 0;
    std::map<uintptr_t, Range> memory;
    std::vector<uintptr_t> reported;
    uint64_t conflicts = 0;
    unsigned char* stacks = nullptr;
    size_t stacks_bytes = 0;
    char message[512] = "";
};
Machine m;

Fibre& self() { return *static_cast<Fibre*>(kiln_emu_thread); }

void note(const char* format, ...) {
    char text[400];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    m.failed = true;
    if (m.message[0]) return;
    const Index& b = kiln_emu_block;
    int thread = kiln_emu_thread ? int(kiln_emu_thread->linear) : -1;
    snprintf(m.message, sizeof m.message, "%s, in block (%u, %u, %u), thread %d", text, b.x, b.y, b.z, thread);
}

// Ends the launch: nothing that the other threads would do still counts.
[[noreturn]] void stop() {
    Context nowhere;
    change(nowhere, m.outside);
    __builtin_unreachable();
}

uint64_t next_random() {
    m.random ^= m.random << 13;
    m.random ^= m.random >> 7;
    m.random ^= m.random << 17;
    return m.random;
}

void set_ready(unsigned i) {
    m.fibres[i].state = State::Ready;
    m.ready[i / 64] |= uint64_t(1) << (i % 64);
}
void clear_ready(unsigned i, State s) {
    m.fibres[i].state = s;
    m.ready[i / 64] &= ~(uint64_t(1) << (i % 64));
}

// The first ready thread at or behind `from`, around the end; -1 where none is.
int ready_from(unsigned from) {
    unsigned words = unsigned(m.ready.size()), w = from / 64;
    uint64_t bits = m.ready[w] & (~uint64_t(0) << (from % 64));
    for (unsigned k = 0; k <= words; k++) {
        if (bits) return int(w * 64 + unsigned(__builtin_ctzll(bits)));
        w = (w + 1) % words;
        bits = m.ready[w];
    }
    return -1;
}
int pick() {
    switch (m.order) {
        case Order::Reverse:
            for (int w = int(m.ready.size()) - 1; w >= 0; w--)
                if (m.ready[w]) return w * 64 + 63 - __builtin_clzll(m.ready[w]);
            return -1;
        case Order::Random:
            return ready_from(unsigned(next_random() % m.count));
        default: {
            unsigned next = kiln_emu_thread ? kiln_emu_thread->linear + 1 : 0;
            return ready_from(next < m.count ? next : 0);
        }
    }
}

bool deliver();
void stuck();

// Goes on with another thread; this one is not ready, or is again.
void yield() {
    int next = pick();
    while (next < 0 && deliver()) next = pick();
    if (next < 0) {
        stuck();
        stop();
    }
    Fibre &from = self(), &to = m.fibres[unsigned(next)];
    if (&from == &to) return;
    kiln_emu_thread = &to;
    change(from.context, to.context);
}

}  // namespace
}  // namespace kiln::emu

#include "emulator_races.h"
#include "emulator_async.h"

namespace kiln::emu {

namespace {
void release_barrier() {
    m.waiting = 0;
    if (m.knowing) {
        std::vector<unsigned> all(m.count);
        for (unsigned i = 0; i < m.count; i++) all[i] = i;
        share(all);
    }
    m.epoch++;
    m.unseen = m.unseen_next;
    m.unseen_next = false;
    for (unsigned i = 0; i < m.count; i++)
        if (m.fibres[i].state == State::AtBarrier) set_ready(i);
}

void enter() {
    m.body(m.argument);
    Fibre& f = self();
    if (!f.copies.empty() && !m.failed) note("a thread ended before it waited for its asynchronous copies");
    if (!m.warps[f.linear / WARP].products.empty() && !m.failed) note("a thread ended before its warp waited for its products");
    if (!f.waited && !m.failed) note("a thread ended before it waited for the launch before");
    clear_ready(f.linear, State::Done);
    m.live--;
    Warp& w = m.warps[f.linear / WARP];
    w.live--;
    if (w.arrived > 0) {
        note("a lane ended while others of its warp wait for it");
        stop();
    }
    if (m.live == 0) {
        if (!m.bulks.empty() && !m.failed) note("a block ended before its bulk copies arrived");
        stop();
    }
    if (m.waiting > 0) {
        note("a thread ended while others wait for it at a barrier");
        stop();
    }
    yield();
    __builtin_unreachable();
}

}  // namespace

void set_order(Order order, uint64_t seed) {
    m.order = order;
    m.random = seed * 0x9e3779b97f4a7c15ull | 1;
}
const char* failure() { return m.failed ? m.message : nullptr; }
void forget_failure() {
    m.failed = false;
    m.message[0] = 0;
    m.reported.clear();
}
uint64_t bank_conflicts() { return m.conflicts; }
void set_overlap(bool overlap) { m.overlap = overlap; }
void add_memory(const void* at, size_t bytes) { m.memory[reinterpret_cast<uintptr_t>(at)] = {bytes, false}; }
void remove_memory(const void* at) { m.memory.erase(reinterpret_cast<uintptr_t>(at)); }

extern "C" {

void kiln_emu_barrier() {
    unsigned me = self().linear;
    // A GPU lets threads end before a barrier of the others; it is a mistake all the same, and shows in one order of threads alone.
    if (m.live != m.count) {
        note("a thread reaches a barrier that another of its block has ended without");
        stop();
    }
    m.waiting++;
    m.unseen_next |= self().unseen;
    clear_ready(me, State::AtBarrier);
    if (m.waiting == m.live) release_barrier();
    yield();
}

void kiln_emu_meet(unsigned op, void* argument, void (*f)(void**)) {
    unsigned me = self().linear, first = me / WARP * WARP;
    Warp& w = m.warps[me / WARP];
    if (w.live != WARP) {
        note("an operation of a warp of which %u lanes are there", w.live);
        stop();
    }
    if (w.arrived == 0) w.op = op;
    if (w.op != op) {
        note("lanes of a warp meet in different operations");
        stop();
    }
    w.lanes[me % WARP] = argument;
    if (++w.arrived < WARP) {
        clear_ready(me, State::Meeting);
        return yield();
    }
    w.arrived = 0;
    if (op == BARRIER) {
        w.epoch++;
        if (m.knowing) {
            unsigned lanes[WARP];
            for (unsigned i = 0; i < WARP; i++) lanes[i] = first + i;
            share(lanes);
        }
    }
    f(w.lanes);
    for (unsigned i = first; i < first + WARP; i++)
        if (m.fibres[i].state == State::Meeting) set_ready(i);
}

void kiln_emu_access(const void* at, size_t bytes, bool write) {
    // Nothing checks accesses where the kernel's own are not reported.
    if (checked() && !m.carrying_out) access(reinterpret_cast<uintptr_t>(at), bytes, write, __builtin_return_address(0));
}

void kiln_emu_wait_for_launch() { self().waited = true; }

void kiln_emu_conflicts(const void* const* rows, unsigned count) {
    // Eight rows of 16 bytes fill the 32 banks once.
    for (unsigned i = 0; i < count; i += 8) {
        unsigned most = 0, banks[8] = {};
        for (unsigned r = i; r < std::min(i + 8, count); r++)
            most = std::max(most, ++banks[reinterpret_cast<uintptr_t>(rows[r]) / 16 % 8]);
        m.conflicts += most - 1;
    }
}

bool kiln_emu_launch(Index grid, Index block, size_t shared, void (*body)(const void*), const void* argument) {
    m.count = block.x * block.y * block.z;
    m.fibres.resize(m.count);
    m.ready.assign((m.count + 63) / 64, 0);
    m.warps.resize((m.count + WARP - 1) / WARP);
    m.body = body;
    m.argument = argument;
    kiln_emu_block_dim = block;
    kiln_emu_grid_dim = grid;
    if (m.stacks_bytes < STACK * m.count) {
        if (m.stacks) munmap(m.stacks, m.stacks_bytes);
        m.stacks_bytes = STACK * m.count;
        void* at = mmap(nullptr, m.stacks_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        m.stacks = at == MAP_FAILED ? nullptr : static_cast<unsigned char*>(at);
        if (!m.stacks) {
            m.stacks_bytes = 0;
            note("no memory for the stacks of %u threads", m.count);
            return false;
        }
    }
    std::vector<unsigned char> memory(shared + 1024 + GUARD);
    auto start = (reinterpret_cast<uintptr_t>(memory.data()) + 1023) / 1024 * 1024;
    kiln_emu_shared = reinterpret_cast<unsigned char*>(start);
    m.shared = shared;
    const bool checks = checks_accesses();
    m.cells.assign(checks ? std::max<size_t>(shared, 1) : 0, Cell());
    m.readers.assign(checks ? (shared / WORD + 1) * (m.warps.size() + 1) : 0, 0);
    m.epoch = 1;
    for (unsigned z = 0; z < grid.z && !m.failed; z++)
        for (unsigned y = 0; y < grid.y && !m.failed; y++)
            for (unsigned x = 0; x < grid.x && !m.failed; x++) {
                kiln_emu_block = {x, y, z};
                m.live = m.count;
                m.waiting = 0;
                m.epoch++;
                m.unseen = m.unseen_next = m.knowing = false;
                m.gates.clear();
                m.bulks.clear();
                for (auto& p : m.parts) p.clear();
                m.launched = m.spare = 0;
                m.multiplied.assign(checks ? (shared / CHUNK + 1) * m.warps.size() : 0, 0);
                m.brought.assign(checks ? shared / CHUNK + 1 : 0, Brought());
                std::memset(kiln_emu_shared, 0xff, shared);
                for (unsigned w = 0; w < m.warps.size(); w++) {
                    m.warps[w].live = std::min(WARP, m.count - w * WARP);
                    m.warps[w].arrived = 0;
                    m.warps[w].products.clear();
                    m.warps[w].groups.clear();
                    m.warps[w].committed = 0;
                }
                for (unsigned i = 0; i < m.count; i++) {
                    Fibre& f = m.fibres[i];
                    f.linear = i;
                    f.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
                    f.waited = !m.overlap;
                    f.unseen = false;
                    f.moved = false;
                    f.arrivals = 0;
                    f.known.assign(checks ? OF_THREADS + m.count : 0, 0);
                    f.copies.clear();
                    f.groups.clear();
                    prepare(f.context, m.stacks + STACK * i, enter);
                    set_ready(i);
                }
                kiln_emu_thread = nullptr;
                Fibre& first = m.fibres[unsigned(pick())];
                kiln_emu_thread = &first;
                change(m.outside, first.context);
            }
    kiln_emu_thread = nullptr;
    kiln_emu_shared = nullptr;
    m.shared = 0;
    return !m.failed;
}

// What code compiled with -fsanitize=thread calls.
#define KILN_ACCESS(name, bytes, write)                                                                        \
    void __tsan_##name(void* at) { access(reinterpret_cast<uintptr_t>(at), bytes, write, __builtin_return_address(0)); }
#define KILN_ACCESSES(bytes)                 \
    KILN_ACCESS(read##bytes, bytes, false)   \
    KILN_ACCESS(write##bytes, bytes, true)   \
    KILN_ACCESS(unaligned_read##bytes, bytes, false) \
    KILN_ACCESS(unaligned_write##bytes, bytes, true)
KILN_ACCESSES(1)
KILN_ACCESSES(2)
KILN_ACCESSES(4)
KILN_ACCESSES(8)
KILN_ACCESSES(16)
void __tsan_read_range(void* at, size_t n) { access(reinterpret_cast<uintptr_t>(at), n, false, __builtin_return_address(0)); }
void __tsan_write_range(void* at, size_t n) { access(reinterpret_cast<uintptr_t>(at), n, true, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}

}  // namespace kiln::emu
