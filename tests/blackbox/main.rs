//! Black-box tests: real processes, real sockets, three actors (an origin, a gateway, a client).
//!
//! One test binary for all of them, so that it is linked once. The letters run from basic to complex: the first
//! red line is the one to look at. A new file is listed here; `tests/tidy.rs` finds one that is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(clippy::float_cmp, reason = "metrics are floats; what is compared here are counts")]

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "a box of tools: what no test uses now is there for the next one"
)]
mod support;
// Where the actors that other packages have as well look for them.
use support::ports;

mod a_actors;
mod b_proxy;
mod c_tls;
mod c_tls_clients;
mod c_tls_quality;
mod c_tls_renewal;
mod d_balanced;
mod d_bounds;
mod d_floods;
mod d_frames;
mod d_heads;
mod d_paces;
mod d_slow;
mod d_smuggling;
mod e_route;
mod f_addresses;
mod f_auth;
mod f_auth_asked;
mod f_auth_callers;
mod f_auth_dev;
mod f_auth_hostile;
mod f_auth_keys;
mod f_concurrency;
mod f_limit;
mod f_limit_fleet;
mod f_limit_rules;
mod f_quota;
mod g_compress;
mod g_cors;
mod g_forward;
mod g_security_headers;
mod g_streams;
mod h_refusal;
mod i_cache;
mod i_cache_changes;
mod i_cache_parts;
mod i_exchanges;
mod j_cache_care;
mod j_cache_claims;
mod j_cache_counts;
mod j_cache_feed;
mod j_cache_fleet;
mod j_cache_private;
mod j_cache_purge;
mod j_cache_safety;
mod j_cache_together;
mod j_cache_trouble;
mod j_own_writes;
mod k_balance;
mod k_choice;
mod l_health;
mod l_names;
mod m_retry;
mod m_retry_after;
mod m_table;
mod m_total;
mod m_turns;
mod m_breaker;
mod m_kept;
mod m_reasons;
mod n_answers;
mod n_dates;
mod n_grpc;
mod n_http2_lost;
mod n_http2_tls;
mod n_http2_upstream;
mod n_interim;
mod n_trailers;
mod n_upstream_proxy;
mod n_upstream_tls;
mod u_acme;
mod u_acme_fleet;
mod u_acme_reload;
mod v_observe;
mod w_drain;
mod w_life;
mod w_reload;
mod x_outside;
mod z_system;
