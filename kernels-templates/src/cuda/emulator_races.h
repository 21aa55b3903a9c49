// Who touched which byte of shared memory, and what threads know of each other: a part of `emulator.cpp`.
//
// Barriers of the block order all that threads did before them, those of a warp what its lanes did. Everything else is knowledge: a thread
// knows how far others have come, and hands that on where it arrives at a barrier in shared memory, to those who wait for the phase (vector
// clocks). Units of four warps and bulk copies touch memory too: the former in groups of products, the latter in phases of barriers.
#pragma once

namespace kiln::emu {
namespace {

// Bytes of which it is known together what units and bulk copies did to them; and those of which readers of several warps are known.
constexpr size_t CHUNK = 16, WORD = 4;

// What a thread may know: the barriers that each warp has come to, the groups of products that each has waited for, phases of barriers in
// shared memory, and of each thread how often it has arrived at one of these.
constexpr size_t OF_UNITS = 32, OF_GATES = 64, OF_THREADS = OF_GATES + MOST_GATES;

using Knowledge = std::vector<uint32_t>;

void learn(Knowledge& to, const Knowledge& from) {
    for (size_t i = 0; i < from.size(); i++) to[i] = std::max(to[i], from[i]);
}
bool checked() { return !m.cells.empty(); }
Knowledge& known(unsigned thread) { return m.fibres[thread].known; }

// What a thread hands on when it arrives: all it knows, what its warp did before the last barrier of the warp, and what it did itself.
void hand_on(unsigned thread, Knowledge& to) {
    if (!checked()) return;
    Fibre& f = m.fibres[thread];
    learn(to, f.known);
    uint32_t& warp = to[thread / WARP];
    warp = std::max(warp, m.warps[thread / WARP].epoch);
    to[OF_THREADS + thread] = ++f.arrivals;
}
// Threads that have met know what each of them knew, of products and copies.
template <class List>
void share(const List& threads) {
    if (!checked() || !m.knowing) return;
    Knowledge all(OF_THREADS + m.count);
    for (unsigned t : threads) learn(all, known(t));
    for (unsigned t : threads) learn(known(t), all);
}

void report(const char* what, uintptr_t at, unsigned other, const void* instruction) {
    uintptr_t key = reinterpret_cast<uintptr_t>(instruction);
    if (std::find(m.reported.begin(), m.reported.end(), key) != m.reported.end()) return;
    m.reported.push_back(key);
    note("%s at byte %zu of shared memory with thread %u", what, size_t(at - reinterpret_cast<uintptr_t>(kiln_emu_shared)), other);
}

// The barriers that warps had come to when they last read a word, plus one; before them the block's barrier that these are behind.
uint32_t* readers(size_t byte) { return &m.readers[byte / WORD * (m.warps.size() + 1)]; }

// Whether an earlier access of another thread to this byte is not ordered before one of this thread.
bool unordered(const Touch& t, unsigned me, size_t byte) {
    if (t.epoch != m.epoch || (!t.many && t.thread == me)) return false;
    const unsigned warp = me / WARP, other = t.thread / WARP;
    const Knowledge& k = known(me);
    if (t.warps) {
        const uint32_t* r = readers(byte) + 1;
        for (unsigned v = 0; v < m.warps.size(); v++)
            if (r[v] != 0 && (v == warp ? r[v] - 1 == m.warps[v].epoch && t.thread != me : k[v] < r[v])) return true;
        return false;
    }
    if (other == warp ? t.warp_epoch != m.warps[warp].epoch : k[other] > t.warp_epoch) return false;
    return t.many || k[OF_THREADS + t.thread] <= t.arrivals;
}
void touch(Touch& t, unsigned me, size_t byte) {
    const unsigned warp = me / WARP;
    const uint32_t now = m.warps[warp].epoch;
    const bool behind = t.epoch != m.epoch || !unordered(t, me, byte);
    const bool same = !behind && !t.warps && t.thread / WARP == warp;
    if (!behind && !same) {
        uint32_t* r = readers(byte);
        if (r[0] != m.epoch) std::fill(r, r + m.warps.size() + 1, 0);
        r[0] = m.epoch;
        if (!t.warps) r[1 + t.thread / WARP] = t.warp_epoch + 1;
        r[1 + warp] = now + 1;
    }
    t = {m.epoch, now, m.fibres[me].arrivals, uint16_t(me), !behind && (t.many || !same || t.thread != me), !behind && !same};
}

// What a bulk copy brings to a chunk, and units of four warps have read of it.
void check_chunks(size_t first, size_t bytes, bool write, const void* instruction) {
    const unsigned me = kiln_emu_thread->linear;
    const Knowledge& k = known(me);
    const auto start = reinterpret_cast<uintptr_t>(kiln_emu_shared);
    for (size_t c = first / CHUNK; c * CHUNK < std::min(first + bytes, m.shared); c++) {
        const Brought& b = m.brought[c];
        if (b.phase != 0 && k[OF_GATES + b.gate] < b.phase) report("a thread touches what a bulk copy brings, before it has waited for it,", start + c * CHUNK, me, instruction);
        if (!write) continue;
        for (unsigned v = 0; v < m.warps.size(); v++)
            if (k[OF_UNITS + v] < m.multiplied[c * m.warps.size() + v]) report("what products read is written before they have been waited for,", start + c * CHUNK, v * WARP, instruction);
    }
}
void access_shared(uintptr_t at, size_t bytes, bool write, const void* instruction) {
    const unsigned me = kiln_emu_thread->linear;
    const size_t first = at - reinterpret_cast<uintptr_t>(kiln_emu_shared);
    if (m.knowing) check_chunks(first, bytes, write, instruction);
    if (m.multiplying) {
        // The products of the running lane's warp.
        const Warp& w = m.warps[me / WARP];
        for (size_t c = first / CHUNK; c * CHUNK < std::min(first + bytes, m.shared); c++) m.multiplied[c * m.warps.size() + me / WARP] = w.committed + 1;
    } else {
        self().unseen |= write;
    }
    for (const Gate& g : m.gates)
        if (first < g.at + sizeof(uint64_t) && g.at < first + bytes) note("a thread touches the words of the barrier at byte %zu of shared memory", g.at);
    for (size_t i = first; i < std::min(first + bytes, m.cells.size()); i++) {
        Cell& c = m.cells[i];
        if (unordered(c.written, me, i)) report(write ? "two threads write" : "a thread reads what another writes", at, c.written.thread, instruction);
        if (write && unordered(c.read, me, i)) report("a thread writes what another reads", at, c.read.thread, instruction);
        if (!m.multiplying) touch(write ? c.written : c.read, me, i);
    }
}

void access(uintptr_t at, size_t bytes, bool write, const void* instruction) {
    if (!kiln_emu_thread || bytes == 0) return;
    if (size_t from = at - reinterpret_cast<uintptr_t>(kiln_emu_shared); from < m.shared + GUARD) {
        if (from + bytes > m.shared) note("%zu bytes are %s behind the end of shared memory", bytes, write ? "written" : "read");
        return access_shared(at, bytes, write, instruction);
    }
    // A thread's own stack, and the constants of the module, are not the memory of the device.
    if (!in_device_space(reinterpret_cast<const void*>(at))) return;
    auto next = m.memory.upper_bound(at);
    if (next != m.memory.begin()) {
        auto inside = std::prev(next);
        if (at + bytes <= inside->first + inside->second.bytes) {
            if (!self().waited && (write || inside->second.written)) note("%zu bytes are %s before the launch before has ended", bytes, write ? "written" : "read");
            inside->second.written |= write;
            return;
        }
    }
    note("%zu bytes are %s outside of device memory", bytes, write ? "written" : "read");
}

}  // namespace
}  // namespace kiln::emu
