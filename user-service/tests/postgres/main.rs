//! The same black-box tests as over SQLite, over a real PostgreSQL, and those that only a server gives reason to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end where it is")]
#![expect(clippy::similar_names, reason = "`path` and `patch` are the terms of the field")]

mod database;
#[path = "../../../tests/blackbox/support/ports.rs"]
mod ports;
mod relay;
mod server;
#[path = "../api/support.rs"]
mod support;
#[path = "../api/stream.rs"]
mod stream;

#[path = "../api/a_users.rs"]
mod a_users;
#[path = "../api/b_conditional.rs"]
mod b_conditional;
#[path = "../api/c_idempotency.rs"]
mod c_idempotency;
#[path = "../api/d_refusals.rs"]
mod d_refusals;
#[path = "../api/e_operation.rs"]
mod e_operation;
#[path = "../api/f_processes.rs"]
mod f_processes;
#[path = "../api/h_events.rs"]
mod h_events;
#[path = "../api/i_audit.rs"]
mod i_audit;
#[path = "../api/j_bulk.rs"]
mod j_bulk;
#[path = "../api/k_search.rs"]
mod k_search;
#[path = "../api/l_access.rs"]
mod l_access;

mod m_server;
mod n_tls;
mod o_replicas;
mod p_events;
