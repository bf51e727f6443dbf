//! What is known about a request while it is here.
