//! A client that is let in by its certificate, for as long as its connection lasts: authorities may change meanwhile, and
//! certificates be revoked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::pki_types::CertificateDer;

use super::client_ca::{ClientCa, ClientCaSource};
use super::edge::Edge;

/// A client, by what it has shown.
pub(super) struct Member {
    edge: Arc<Edge>,
    /// The host that its connection was made for.
    sni: Option<Box<str>>,
    shown: Vec<CertificateDer<'static>>,
    /// What it was asked for, as it is configured.
    asked: Arc<ClientCaSource>,
    /// Tells those that let it in from any others.
    print: [u8; 32],
    /// What was in force when it was looked at last, by its number.
    looked: AtomicU64,
    /// Whether it is let in no more. Once it has been told so, that is how it stays.
    is_out: AtomicBool,
}

impl Member {
    /// Who was let in by these authorities, when what was in force had this number.
    pub(super) fn new(
        edge: &Arc<Edge>,
        sni: Option<&str>,
        shown: &[CertificateDer<'_>],
        by: &ClientCa,
        turn: u64,
    ) -> Self {
        Self {
            edge: edge.clone(),
            sni: sni.map(Into::into),
            shown: shown.iter().map(|cert| cert.clone().into_owned()).collect(),
            asked: by.source.clone(),
            print: by.print,
            looked: AtomicU64::new(turn),
            is_out: AtomicBool::new(false),
        }
    }

    /// Whether it would be let in as well by what is in force now. It is verified again only where that has changed.
    pub(super) fn is_let_in(&self) -> bool {
        if self.is_out.load(Ordering::Acquire) {
            return false;
        }
        let turn = self.edge.turn();
        if self.looked.load(Ordering::Acquire) == turn {
            return true;
        }
        let is_let_in = self.is_admitted();
        if is_let_in {
            self.looked.store(turn, Ordering::Release);
        } else if !self.is_out.swap(true, Ordering::AcqRel) {
            tracing::debug!(
                sni = self.sni.as_deref(),
                "a client certificate is accepted no more; its connection ends"
            );
        }
        is_let_in
    }

    fn is_admitted(&self) -> bool {
        let Some(table) = self.edge.tls() else { return false };
        // Where its host asks for something else now, its requests are refused as they are (`gateway::admit`).
        let clients = table.clients(self.sni.as_deref()).filter(|clients| clients.source == self.asked);
        clients.is_some_and(|clients| clients.print == self.print || clients.still_admits(Some(&self.shown)))
    }

    /// Waits until it is let in no more.
    pub(super) async fn turned_out(&self) {
        let mut turns = self.edge.turns();
        while self.is_let_in() {
            // The edge is held, and with it who tells.
            if turns.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("sni", &self.sni).field("is_out", &self.is_out).finish_non_exhaustive()
    }
}
