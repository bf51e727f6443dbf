//! Black-box tests of the real program: real processes, real sockets, a database file of their own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end where it is")]
#![expect(clippy::similar_names, reason = "`path` and `patch` are the terms of the field")]

mod database;
mod stream;
mod support;

mod a_users;
mod b_conditional;
mod c_idempotency;
mod d_refusals;
mod e_operation;
mod f_processes;
mod g_sqlite;
mod h_events;
mod i_audit;
mod j_bulk;
mod k_search;
mod l_access;
mod m_docs;
