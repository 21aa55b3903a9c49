//! Host functions: operators whose result types depend on data, over run-time values.
