//! Behaviour of a whole upstream.
