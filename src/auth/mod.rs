//! Who asks: credentials are checked here, and become a [`Caller`].

pub mod caller;

pub use caller::{Caller, Claims, Proof};
