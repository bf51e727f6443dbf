//! Bytes of answers on their way to a client, and how many of them may wait for it.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use pingora::{ErrorType, OrErr, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of answers from servers that may wait to be sent on one connection, all its requests together. What is stored
/// is shared by all who are sent it, and does not count.
const WAITING: usize = 1 << 20;

/// What waits to be sent on a connection.
#[derive(Clone, Debug)]
pub(super) struct Account(Arc<Semaphore>);

impl Account {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WAITING)))
    }

    /// Takes bytes on the account, until they are sent or their stream is given up. Waits while there are too many.
    pub(super) async fn take(&self, bytes: Bytes) -> Result<Piece> {
        let count = u32::try_from(bytes.len().min(WAITING)).unwrap_or(u32::MAX);
        let place = self.0.clone().acquire_many_owned(count).await;
        let place = place.or_err(ErrorType::InternalError, "while waiting for others to be sent")?;
        Ok(Piece { bytes, _place: Some(place) })
    }
}

/// Bytes that wait to be sent.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    /// Given back with the last of them.
    _place: Option<OwnedSemaphorePermit>,
}

impl Piece {
    /// Bytes that are in memory anyway.
    pub(super) fn shared(bytes: Bytes) -> Self {
        Self { bytes, _place: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn so_many_bytes_wait_and_no_more() {
        let account = Account::new();
        let half = Bytes::from(vec![7; WAITING / 2]);
        let first = account.take(half.clone()).await.unwrap();
        let _second = account.take(half.clone()).await.unwrap();
        assert!(timeout(WITHIN, account.take(half.clone())).await.is_err());
        assert_eq!(Piece::shared(half.clone()).remaining(), WAITING / 2);
        let waiting = tokio::spawn(async move { account.take(half).await.map(|piece| piece.remaining()) });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.unwrap().unwrap(), WAITING / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_larger_than_all_has_its_turn_alone() {
        let account = Account::new();
        let piece = account.take(Bytes::from(vec![7; 2 * WAITING])).await.unwrap();
        assert_eq!(piece.remaining(), 2 * WAITING);
        assert!(timeout(WITHIN, account.take(Bytes::from_static(b"a"))).await.is_err());
    }
}
