//! Kernel sources of the Kiln compiler: every family in a folder of its own, over plain slices.
