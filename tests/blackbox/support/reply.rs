//! What an origin answers: built in a test, sent byte for byte.

use std::time::Duration;

use tokio::sync::watch;

/// One canned answer.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    /// How long the origin thinks before it sends the first byte.
    pub(crate) delay: Duration,
    /// What must open before it sends the first byte.
    pub(crate) gate: Option<Gate>,
    /// After how many bytes it sends no more until the gate opens.
    pub(crate) pause: Option<(usize, Gate)>,
    /// How many bytes it sends before it ends the connection instead of going on.
    pub(crate) cut: Option<usize>,
    /// Whether a cut is a farewell, as from a server that has sent everything, and not a reset.
    farewell: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Length,
    Chunked,
    Close,
}

impl Reply {
    /// A status and a body.
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: body.into(),
            framing: Framing::Length,
            delay: Duration::ZERO,
            gate: None,
            pause: None,
            cut: None,
            farewell: false,
        }
    }

    /// 200 with a body.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body)
    }

    /// One more header field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With `Cache-Control: max-age=…`.
    pub(crate) fn fresh_for(self, seconds: u32) -> Self {
        self.field("cache-control", &format!("max-age={seconds}"))
    }

    /// The body in chunks, its length unknown to the receiver beforehand.
    pub(crate) fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// The body ended by closing the connection.
    pub(crate) fn until_close(mut self) -> Self {
        self.framing = Framing::Close;
        self
    }

    /// Sent only after some time.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sent only once the gate opens.
    pub(crate) fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Cut off by a reset after so many bytes, head included.
    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Closed in good order after so many bytes, head included, as if that were all.
    pub(crate) fn closed_after(mut self, bytes: usize) -> Self {
        self.farewell = true;
        self.cut_after(bytes)
    }

    /// Paused after so many bytes, head included, until the gate opens.
    pub(crate) fn paused_after(mut self, bytes: usize, gate: &Gate) -> Self {
        self.pause = Some((bytes, gate.clone()));
        self
    }

    /// Whether the connection ends by a reset.
    pub(crate) fn resets(&self) -> bool {
        self.cut.is_some() && !self.farewell
    }

    /// Whether the connection may carry another answer after this one.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.framing != Framing::Close && self.cut.is_none()
    }

    /// The bytes on the wire, as an answer to `method`.
    pub(crate) fn bytes(&self, method: &str, served_by: &str) -> Vec<u8> {
        let bodiless = matches!(self.status, 100..200 | 204 | 304);
        let mut head = format!("HTTP/1.1 {} Canned\r\nServed-By: {served_by}\r\n", self.status);
        for (name, value) in &self.fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        match self.framing {
            _ if bodiless => {}
            Framing::Length => head.extend(["Content-Length: ", &self.body.len().to_string(), "\r\n"]),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::Close => head += "Connection: close\r\n",
        }
        let mut bytes = (head + "\r\n").into_bytes();
        if !bodiless && method != "HEAD" {
            match self.framing {
                Framing::Chunked => bytes.extend(chunks(&self.body)),
                Framing::Length | Framing::Close => bytes.extend(&self.body),
            }
        }
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(1000) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Something that answers wait for until a test opens it.
#[derive(Clone)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    /// Holds everything that comes.
    pub(crate) fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets everything through, now and later.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub(crate) async fn opened(&self) {
        self.0.subscribe().wait_for(|open| *open).await.expect("the gate holds its own sender");
    }
}
