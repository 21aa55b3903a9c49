//! Every encoding, and files that mean harm.
