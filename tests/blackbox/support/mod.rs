//! The actors of a black-box test and what they need: real binaries, port 0, temporary folders, bounded waits.

pub(crate) mod gateway;
pub(crate) mod origin;
pub(crate) mod reply;
pub(crate) mod backend;
pub(crate) mod speaker;
pub(crate) mod silent;
pub(crate) mod client;
pub(crate) mod raw;
pub(crate) mod h2;
pub(crate) mod frames;
pub(crate) mod users;
pub(crate) mod certs;
pub(crate) mod handshake;
pub(crate) mod process;
pub(crate) mod ports;
pub(crate) mod wire;
pub(crate) mod second;
pub(crate) mod passing;
pub(crate) mod cached;
pub(crate) mod redis;
pub(crate) mod fleet;
pub(crate) mod pebble;
pub(crate) mod names;
pub(crate) mod issuer;
pub(crate) mod exchange;
#[path = "../../../user-service/tests/rabbit/broker.rs"]
pub(crate) mod rabbit;
pub(crate) mod followed;

use std::time::{Duration, Instant};

pub(crate) use backend::{Backend, Manners};
pub(crate) use cached::Cached;
pub(crate) use certs::Certs;
pub(crate) use client::{Answer, Client};
pub(crate) use fleet::{Fleet, Node};
pub(crate) use followed::Followed;
pub(crate) use gateway::{Gateway, group, https, plain};
pub(crate) use issuer::Issuer;
pub(crate) use names::Names;
pub(crate) use origin::Origin;
pub(crate) use raw::Raw;
pub(crate) use reply::{Gate, Reply};
pub(crate) use second::Second;
pub(crate) use silent::Silent;
pub(crate) use speaker::Speaker;
pub(crate) use wire::{Line, Wire};

/// Longest wait for anything that is expected to happen: far beyond what it takes on a busy machine, so that
/// only what never happens runs into it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before looking again at a state that is not there yet.
const GLANCE: Duration = Duration::from_millis(20);

/// Waits for a state; panics with `what` when it does not come about within the time.
///
/// The one place where a test sleeps for something to happen: it waits on a state, never on a clock.
pub(crate) async fn eventually(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// Lets so much time pass: for answers that are to age, and origins that think before they answer.
pub(crate) async fn pass(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        tokio::time::sleep(time.saturating_sub(began.elapsed())).await;
    }
}

/// The bytes that text stands for in the files of messages: `\r`, `\n`, `\t`, `\0`, `\` and `\xNN` are one each.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == b'\\') {
            (byte, false) => byte,
            _ => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("{text:?}: {other:?}"),
            },
        });
    }
    bytes
}

/// Awaits what must come; panics with `what` when it does not.
pub(crate) async fn must<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Makes aws-lc-rs the process's TLS provider; reqwest and rustls ask for it by that name.
pub(crate) fn use_tls_provider() {
    // An error says that another test of this process was first, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
