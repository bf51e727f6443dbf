//! Passing requests and answers on.
