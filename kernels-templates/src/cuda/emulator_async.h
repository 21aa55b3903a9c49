// What goes on beside the threads of a block: asynchronous copies, products of four warps, bulk copies and the barriers that count them, and
// registers that warps hand on. A part of `emulator.cpp`.
//
// Everything is as late as it may be: copies of a thread and products are carried out when they are waited for, bulk copies when no thread
// can go on without them, one at a time and in no promised order.
#pragma once

namespace kiln::emu {
namespace {

size_t place(const void* at) { return size_t(reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(kiln_emu_shared)); }

// The barrier in shared memory at an address.
Gate& gate(const void* at) {
    const size_t p = place(at);
    for (Gate& g : m.gates)
        if (g.at == p) {
            const unsigned me = self().linear;
            if (checked() && unordered(g.made, me, p)) note("the barrier at byte %zu of shared memory is used before the block has met since it was made", p);
            return g;
        }
    note("there is no barrier at byte %zu of shared memory", p);
    stop();
}
uint16_t number(const Gate& g) { return uint16_t(&g - m.gates.data()); }

void wake(State state, const void* of = nullptr) {
    for (unsigned i = 0; i < m.count; i++)
        if (m.fibres[i].state == state && (!of || m.fibres[i].at == of)) set_ready(i);
}

// Ends the phase of a barrier, if nothing is missing from it.
void advance(Gate& g) {
    if (g.pending != 0 || g.bytes != 0) return;
    for (const Bulk& b : m.bulks)
        if (b.gate == number(g)) {
            note("a phase of the barrier at byte %zu of shared memory ends before a copy that counts for it has arrived: it expects too few bytes", g.at);
            break;
        }
    g.phase++;
    g.pending = g.arrivals;
    if (checked()) {
        g.arriving[OF_GATES + number(g)] = g.phase;
        learn(g.arrived, g.arriving);
    }
    wake(State::AtGate, reinterpret_cast<const void*>(g.at));
}

void copy_box(const Bulk& b) {
    const Map& map = b.map;
    for (unsigned r = 0; r < map.box[1]; r++) {
        const long long row = (long long)b.row + r;
        for (unsigned c = 0; c < map.box[0] * map.element; c += CHUNK) {
            unsigned char* to = kiln_emu_shared + ((b.to + r * 128 + c) ^ (r % 8 * CHUNK));
            for (unsigned e = 0; e < CHUNK; e += map.element) {
                const long long column = (long long)b.column + (c + e) / map.element;
                const bool inside = row >= 0 && row < (long long)map.extents[1] && column >= 0 && column < (long long)map.extents[0];
                if (inside) std::memcpy(to + e, reinterpret_cast<const char*>(map.address) + size_t(row) * map.pitch + size_t(column) * map.element, map.element);
                else std::memset(to + e, 0, map.element);
            }
        }
    }
}

// Lets a bulk copy arrive; false where none is under way.
bool deliver() {
    if (m.bulks.empty()) return false;
    const size_t n = m.bulks.size(), i = m.order == Order::Random ? next_random() % n : m.order == Order::Reverse ? n - 1 : 0;
    const Bulk b = m.bulks[i];
    m.bulks.erase(m.bulks.begin() + long(i));
    copy_box(b);
    Gate& g = m.gates[b.gate];
    g.bytes -= long(b.map.box[0]) * b.map.box[1] * b.map.element;
    advance(g);
    return true;
}

// No thread can go on, and nothing is under way that would change that.
void stuck() {
    for (const Fibre& f : m.fibres) {
        if (f.state == State::AtGate)
            for (const Gate& g : m.gates)
                if (reinterpret_cast<const void*>(g.at) == f.at)
                    return note("no thread can go on: thread %u waits for phase %u of the barrier at byte %zu of shared memory, which misses %u arrivals and %ld bytes", f.linear,
                                g.phase, g.at, g.pending, g.bytes);
        if (f.state == State::AtRegisters) return note("no thread can go on: thread %u waits for registers that others do not leave", f.linear);
    }
    note("no thread can go on: not all threads of the block, or lanes of a warp, reach the same barrier");
}

}  // namespace

extern "C" {

void kiln_emu_copy(void* to, const void* from, unsigned bytes, unsigned valid) {
    if (reinterpret_cast<uintptr_t>(to) % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes)) {
        note("an asynchronous copy of %u bytes is not aligned to them", bytes);
        stop();
    }
    kiln_emu_access(to, bytes, true);
    kiln_emu_access(from, valid, false);
    std::memset(to, 0xff, bytes);
    self().copies.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, valid});
}
void kiln_emu_commit() { self().groups.push_back(self().copies.size()); }
void kiln_emu_wait(unsigned pending) {
    Fibre& f = self();
    if (f.groups.size() <= pending) return;
    size_t done = f.groups.size() - pending, copies = f.groups[done - 1];
    f.unseen |= copies > 0;
    for (size_t i = 0; i < copies; i++) {
        const Copy& c = f.copies[i];
        // Here it arrives for this thread; for others it does with the next barrier.
        kiln_emu_access(c.to, c.bytes, true);
        std::memcpy(c.to, c.from, c.valid);
        std::memset(c.to + c.valid, 0, c.bytes - c.valid);
    }
    f.copies.erase(f.copies.begin(), f.copies.begin() + long(copies));
    f.groups.erase(f.groups.begin(), f.groups.begin() + long(done));
    for (size_t& g : f.groups) g -= copies;
}

void kiln_emu_group_sees() { self().unseen = false; }
void kiln_emu_defer(const Deferred& product) {
    unsigned warp = self().linear / WARP;
    Deferred x = product;
    x.warp = warp % 4;
    const uint64_t swizzled = uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32;
    for (uint64_t d : {x.left, x.right})
        if ((d >> 32) << 32 != swizzled || (d & 0x3f) * 16 % 1024 / 128 != 0) {
            note("an operand of four warps does not begin at a multiple of 1024 bytes");
            stop();
        }
    if (m.unseen) note("what threads wrote to shared memory is not there for the units of four warps: `group_sees` is missing before the barrier");
    m.knowing = m.multiplying = true;
    x.seen = x.run(x, false);
    m.multiplying = false;
    m.warps[warp].products.push_back(x);
}
void kiln_emu_group_commit() {
    Warp& w = m.warps[self().linear / WARP];
    w.committed++;
    w.groups.push_back(w.products.size());
}
void kiln_emu_group_wait(unsigned pending) {
    const unsigned warp = self().linear / WARP;
    Warp& w = m.warps[warp];
    if (w.groups.size() <= pending) return;
    size_t done = w.groups.size() - pending, products = w.groups[done - 1];
    m.carrying_out = true;
    for (size_t i = 0; i < products; i++)
        if (w.products[i].run(w.products[i], true) != w.products[i].seen) note("operands of products change before these are waited for");
    m.carrying_out = false;
    w.products.erase(w.products.begin(), w.products.begin() + long(products));
    w.groups.erase(w.groups.begin(), w.groups.begin() + long(done));
    for (size_t& g : w.groups) g -= products;
    if (checked())
        for (unsigned lane = 0; lane < WARP; lane++) known(warp * WARP + lane)[OF_UNITS + warp] = w.committed - pending;
}

void kiln_emu_mbarrier_init(void* at, unsigned arrivals) {
    const size_t p = place(at);
    if (p % sizeof(uint64_t) != 0 || p + sizeof(uint64_t) > m.shared || arrivals == 0) {
        note("a barrier at byte %zu of shared memory, of %u arrivals", p, arrivals);
        stop();
    }
    for (const Gate& g : m.gates)
        if (g.at == p) {
            note("the barrier at byte %zu of shared memory is made twice", p);
            stop();
        }
    if (m.gates.size() == MOST_GATES) {
        note("a block makes more than %u barriers, which is more than the emulator follows", MOST_GATES);
        stop();
    }
    kiln_emu_access(at, sizeof(uint64_t), true);
    m.knowing = true;
    const unsigned me = self().linear;
    Gate g{p, arrivals, arrivals, 0, 0, me, false, {}, {}, {}, {}};
    g.seen.assign(m.count, 0);
    if (checked()) {
        g.arriving.assign(OF_THREADS + m.count, 0);
        g.arrived = g.arriving;
        g.made = {m.epoch, m.warps[me / WARP].epoch, self().arrivals, uint16_t(me), false, false};
    }
    m.gates.push_back(std::move(g));
}
void kiln_emu_mbarrier_made() {
    for (Gate& g : m.gates) g.shown |= g.maker == self().linear;
    self().unseen = false;
}
void kiln_emu_mbarrier_arrive(void* at, unsigned bytes) {
    Gate& g = gate(at);
    // What the barrier counts, at most: 2^20 - 1 bytes.
    if (g.pending == 0 || g.bytes + long(bytes) >= 1 << 20) {
        note("the barrier at byte %zu of shared memory gets more than it counts in a phase", g.at);
        stop();
    }
    g.bytes += long(bytes);
    g.pending--;
    hand_on(self().linear, g.arriving);
    advance(g);
}
void kiln_emu_mbarrier_wait(void* at, unsigned parity) {
    const unsigned me = self().linear;
    gate(at);
    for (;;) {
        Gate& g = gate(at);
        if (g.phase % 2 != parity) {
            // The phase before this one has ended: the one that is waited for, unless others ended unseen in between.
            if (g.phase > g.seen[me] + 1) note("phases of the barrier at byte %zu of shared memory end without this thread", g.at);
            g.seen[me] = g.phase;
            if (checked()) learn(known(me), g.arrived);
            return;
        }
        self().at = reinterpret_cast<const void*>(g.at);
        clear_ready(me, State::AtGate);
        yield();
    }
}

void kiln_emu_tma_load(void* to, const void* from, int column, int row, void* at) {
    Bulk b{{}, column, row, place(to), 0};
    std::memcpy(&b.map, from, sizeof b.map);
    const Map& map = b.map;
    if (map.magic != MAP_MAGIC) {
        note("a bulk copy by what is no map");
        stop();
    }
    const size_t bytes = size_t(map.box[1]) * 128;
    if (map.box[0] * map.element != 128 || b.to % 1024 != 0 || b.to + bytes > m.shared) {
        note("a bulk copy of %u rows to byte %zu of shared memory: its tile has rows of 128 bytes, begins at a multiple of 1024 and ends in %zu", map.box[1], b.to, m.shared);
        stop();
    }
    Gate& g = gate(at);
    if (!g.shown) note("the accelerator does not know the barrier at byte %zu of shared memory: `mbarrier_made` is missing", g.at);
    b.gate = number(g);
    if (checked()) {
        const auto* instruction = __builtin_return_address(0);
        const unsigned me = self().linear;
        for (unsigned r = 0; r < map.box[1]; r++) {
            const long long y = (long long)row + r, first = std::max(column, 0), last = std::min<long long>((long long)column + map.box[0], (long long)map.extents[0]);
            if (y < 0 || y >= (long long)map.extents[1] || first >= last) continue;
            access(map.address + size_t(y) * map.pitch + size_t(first) * map.element, size_t(last - first) * map.element, false, instruction);
        }
        // As a write of the thread's that ends with the phase.
        check_chunks(b.to, bytes, true, instruction);
        for (size_t i = b.to; i < b.to + bytes; i++) {
            if (unordered(m.cells[i].written, me, i) || unordered(m.cells[i].read, me, i))
                report("a bulk copy is brought where another thread reads or writes,", reinterpret_cast<uintptr_t>(to) + i - b.to, m.cells[i].read.thread, instruction);
            m.cells[i] = Cell();
        }
        for (size_t c = b.to / CHUNK; c < (b.to + bytes) / CHUNK; c++) m.brought[c] = {b.gate, g.phase + 1};
        learn(g.arriving, known(me));
    }
    std::memset(to, 0xff, bytes);
    m.bulks.push_back(b);
}
void kiln_emu_tma_prefetch(const void* from) {
    Map map;
    std::memcpy(&map, from, sizeof map);
    if (map.magic != MAP_MAGIC) note("what is asked for is no map");
}

void kiln_emu_part_barrier(unsigned id, unsigned threads) {
    const unsigned me = self().linear;
    if (id == 0 || id > 15 || threads == 0 || threads % WARP != 0) {
        note("barrier %u of %u threads: there are numbers from 1 to 15, and whole warps", id, threads);
        stop();
    }
    auto& waiting = m.parts[id];
    waiting.push_back(me);
    if (waiting.size() < threads) {
        clear_ready(me, State::AtPart);
        return yield();
    }
    if (checked()) {
        m.knowing = true;
        for (unsigned t : waiting) m.warps[t / WARP].epoch += t % WARP == 0;
        for (unsigned t : waiting) hand_on(t, known(me));
        share(waiting);
    }
    for (unsigned t : waiting)
        if (t != me) set_ready(t);
    waiting.clear();
}

void kiln_emu_registers(unsigned from, unsigned count, bool more) {
    Fibre& f = self();
    kiln_emu_meet(7000 + count * 2 + more, nullptr, [](void**) {});
    if (m.launched == 0) m.launched = from;
    if (from != m.launched || from * m.count > REGISTERS || f.moved || count % 8 != 0 || count < 24 || count > 256 || (more ? count < from : count > from)) {
        note("a thread asks for %u registers, from %u", count, from);
        stop();
    }
    f.moved = true;
    if (!more) {
        m.spare += from - count;
        wake(State::AtRegisters);
    }
    while (more && m.spare < count - from) {
        clear_ready(f.linear, State::AtRegisters);
        yield();
    }
    if (more) m.spare -= count - from;
}
}

}  // namespace kiln::emu
