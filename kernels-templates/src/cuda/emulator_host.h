// What the programs around the emulator see of it: the stand-in driver, and tests of kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kiln::emu {

// In which order threads run between barriers.
enum class Order { Forward, Reverse, Random };

// What a map of the stand-in driver says, in the place of what hardware has there: rows in memory, and the box that a copy takes of them.
struct Map {
    uint64_t magic, address, extents[2], pitch;
    uint32_t box[2], element;
};
constexpr uint64_t MAP_MAGIC = 0x70616d6e6c696b00;

void set_order(Order order, uint64_t seed);
// What a kernel did that it must not; null where none did.
const char* failure();
void forget_failure();
// Passes over the banks of shared memory that matrix loads took beyond the least.
uint64_t bank_conflicts();
// Whether the next launches begin before the ones before them have ended: then their threads must wait before they touch what launches
// write, which shows where kernels report their accesses, and before they end.
void set_overlap(bool overlap);
// Memory that kernels may touch.
void add_memory(const void* at, size_t bytes);
void remove_memory(const void* at);

// Given by the program around: whether an address lies where device memory is handed out, and whether kernels report their accesses.
bool in_device_space(const void* at);
bool checks_accesses();

}  // namespace kiln::emu
