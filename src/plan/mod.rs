//! What runs: the configuration, compiled.
