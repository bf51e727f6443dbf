//! Choosing a server.
