//! Finding the route of a request: the most specific host, then the longest path, then the method.
//!
//! A request is looked up by three things, each in one normal form: the host (by [`host_of`]), the path (by
//! [`path::normalise`]) and the method. [`Pattern`] says which of them a route takes, [`Table`] finds the route.

mod host;
mod pattern;
mod table;
pub mod path;

pub use host::{BadHost, host_of};
pub use pattern::{BadPattern, HostPattern, PathPattern, Pattern, method};
pub use table::{NotFound, Table, Tie};
