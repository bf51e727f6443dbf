//! A listener that leaves connections without an answer.

use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Its queue is full, so that the system leaves further connections alone.
pub(crate) struct Silent {
    pub(crate) address: String,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl Silent {
    /// At a free port.
    pub(crate) async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            waiting.push(connected.unwrap());
            assert!(waiting.len() < 100, "the queue never fills");
        }
        Self { address: address.to_string(), _queue: (listener, waiting) }
    }
}
