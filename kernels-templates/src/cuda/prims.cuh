// What a GPU's threads do that C++ has no words for: matrix units, asynchronous copies, exchange between lanes. A file a theme; only they have PTX.
//
// Every primitive has two forms: instructions for nvcc, and the emulator's for a host compiler (`emulator.h`).
#pragma once
#include "prims/elements.cuh"
#include "prims/threads.cuh"
#include "prims/copies.cuh"
#include "prims/units.cuh"
#include "prims/groups.cuh"
#include "prims/bulk.cuh"
