//! Every "no" of the gateway.
