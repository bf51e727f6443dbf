//! From a plan to a running process.
