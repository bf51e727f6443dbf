//! A consumer that keeps a ledger of what it has been told, and is cut off now and then before it has said so.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::Notify;
use tokio_stream::StreamExt as _;

use crate::inbox::Ledger;
use crate::scale::pass;

/// Between two tries to reach the broker.
const PAUSE: Duration = Duration::from_millis(200);

/// The consumer; ends when dropped.
pub(crate) struct Consumer {
    ledger: Arc<Mutex<Ledger>>,
    cut: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Consumer {
    /// Of a queue at this virtual host, as soon as it is there.
    pub(crate) fn of(url: &str, queue: &'static str) -> Self {
        let (ledger, cut) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(Notify::new()));
        let (url, book, knife) = (url.to_owned(), ledger.clone(), cut.clone());
        let task = tokio::spawn(async move {
            loop {
                // Whatever goes wrong, it comes back, as a process that is watched over would.
                let _ = consume(&url, queue, &book, &knife).await;
                pass(PAUSE).await;
            }
        });
        Self { ledger, cut, task }
    }

    /// Cuts it off, so that what it has not acknowledged comes again.
    pub(crate) fn kill(&self) {
        self.cut.notify_one();
    }

    /// Looks at the ledger.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.ledger.lock().unwrap())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn consume(url: &str, queue: &str, ledger: &Mutex<Ledger>, cut: &Notify) -> lapin::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    loop {
        let next = tokio::select! {
            next = consumer.next() => next,
            () = cut.notified() => return Ok(()),
        };
        let Some(delivery) = next else { return Ok(()) };
        let delivery = delivery?;
        ledger.lock().unwrap().enter(&delivery);
        // Entered, and perhaps never acknowledged: it comes again, and is known by its id.
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
}
