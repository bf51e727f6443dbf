//! What the tests of this module share: scripted origins on the loopback, bounded waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::telemetry::Meters;

use super::{Settings, Upstream};

/// An upstream with metrics of its own.
pub(super) fn upstream_of(settings: Settings) -> Arc<Upstream> {
    Upstream::new(settings, None, &Meters::new())
}

/// Waits until something is so.
pub(super) async fn eventually(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// An address where nobody listens.
pub(super) async fn refusing_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// What an origin says to each request.
#[derive(Clone)]
pub(super) enum Says {
    /// These bytes; then it closes the connection.
    Text(String),
    /// Nothing, for as long as the client waits.
    Nothing,
}

impl Says {
    pub(super) fn status(status: u16) -> Self {
        Self::Text(format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n"))
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A server on the loopback that does as it is told.
pub(super) struct Origin {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

struct Script {
    says: Says,
    requests: Vec<String>,
}

impl Origin {
    pub(super) async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script { says, requests: Vec::new() }));
        let task = tokio::spawn({
            let script = script.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, script.clone()));
                }
            }
        });
        Self { address, script, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn place(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn now_says(&self, says: Says) {
        self.script.lock().says = says;
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.script.lock().requests.clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let says = {
        let mut script = script.lock();
        script.requests.push(String::from_utf8_lossy(&head).into_owned());
        script.says.clone()
    };
    match says {
        Says::Text(text) => {
            // The client may be gone; then there is nobody to tell.
            let _ = stream.write_all(text.as_bytes()).await;
        }
        Says::Nothing => {
            // Held open until the client gives up.
            let _ = stream.read_u8().await;
        }
    }
}
