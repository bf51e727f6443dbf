//! A scripted HTTP/1.1 origin in the test's own process: canned answers, and a record of what was asked.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{PATIENCE, Reply, eventually};

/// Listens on a free port until dropped. Unless told otherwise, answers everything with 200 and its name.
pub(crate) struct Origin {
    address: SocketAddr,
    script: Arc<Script>,
    /// Bound and never listening: keeps the port ours while the origin is stopped.
    _reserve: TcpSocket,
    serving: Option<watch::Sender<()>>,
}

struct Script {
    name: String,
    replies: Mutex<HashMap<String, Answers>>,
    seen: Mutex<Vec<Seen>>,
}

/// What a path answers, by what was asked.
type Answers = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The method.
    pub(crate) method: String,
    /// The request target, query included.
    pub(crate) target: String,
    /// Field names in lower case, and values, in the order they came.
    pub(crate) fields: Vec<(String, String)>,
    /// The body, chunks put together.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The first value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

impl Origin {
    /// Starts one; its name is in the `Served-By` field of every answer.
    pub(crate) async fn start(name: &str) -> Self {
        let reserve = socket("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reserve.local_addr().unwrap();
        let script = Script { name: name.to_owned(), replies: Mutex::default(), seen: Mutex::default() };
        let mut origin = Self { address, script: Arc::new(script), _reserve: reserve, serving: None };
        origin.restart();
        // So that callers may rely on it from the first line on.
        eventually(PATIENCE, "the origin listens", async || TcpStream::connect(address).await.is_ok()).await;
        origin
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers this path (without query) with that reply from now on.
    pub(crate) fn answer(&self, path: &str, reply: Reply) {
        self.answer_by(path, move |_| reply.clone());
    }

    /// Answers this path (without query) from now on as `reply` makes of each request.
    pub(crate) fn answer_by(&self, path: &str, reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        self.script.replies.lock().unwrap().insert(path.to_owned(), Arc::new(reply));
    }

    /// Every request that came whole, oldest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().unwrap().clone()
    }

    /// How many requests came for this path (without query).
    pub(crate) fn requests(&self, path: &str) -> usize {
        self.script.seen.lock().unwrap().iter().filter(|seen| path_of(&seen.target) == path).count()
    }

    /// Resets every connection and refuses new ones, until `restart`. The port stays ours.
    pub(crate) async fn stop(&mut self) {
        self.serving = None;
        let address = self.address;
        eventually(PATIENCE, "the origin refuses", async || TcpStream::connect(address).await.is_err()).await;
    }

    /// Listens again on the same port.
    pub(crate) fn restart(&mut self) {
        let listener = socket(self.address).and_then(|socket| socket.listen(1024)).unwrap();
        let (serving, stopped) = watch::channel(());
        tokio::spawn(accept(listener, Arc::clone(&self.script), stopped));
        self.serving = Some(serving);
    }
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

/// A socket bound beside the one that reserves the port, which is what `SO_REUSEPORT` allows.
pub(super) fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, script: Arc<Script>, mut stopped: watch::Receiver<()>) {
    loop {
        tokio::select! {
            // The sender is only ever dropped.
            _ = stopped.changed() => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                tokio::spawn(converse(stream, Arc::clone(&script), stopped.clone()));
            }
        }
    }
}

/// Serves one connection until either side is done; a stopped origin resets it.
async fn converse(stream: TcpStream, script: Arc<Script>, mut stopped: watch::Receiver<()>) {
    let mut stream = BufReader::new(stream);
    let reset = tokio::select! {
        _ = stopped.changed() => true,
        served = serve(&mut stream, &script) => served.is_ok_and(|end| end == End::Reset),
    };
    if reset {
        // Without lingering, closing sends a reset instead of a farewell.
        let _ = stream.get_ref().set_zero_linger();
    }
}

#[derive(PartialEq)]
enum End {
    Closed,
    Reset,
}

async fn serve(stream: &mut BufReader<TcpStream>, script: &Script) -> io::Result<End> {
    stream.get_ref().set_nodelay(true)?;
    loop {
        let Some(seen) = read_request(stream).await? else { return Ok(End::Closed) };
        let scripted = script.replies.lock().unwrap().get(path_of(&seen.target)).cloned();
        let reply = match scripted {
            Some(answers) => answers(&seen),
            None => Reply::ok(format!("{} answers", script.name)),
        };
        let bytes = reply.bytes(&seen.method, &script.name);
        script.seen.lock().unwrap().push(seen);

        tokio::time::sleep(reply.delay).await;
        if let Some(gate) = &reply.gate {
            gate.opened().await;
        }
        let pause = reply.pause.as_ref().map(|(at, gate)| (bytes.len().min(*at), gate));
        let (first, rest) = bytes.split_at(pause.map_or(bytes.len(), |(at, _)| at));
        stream.get_mut().write_all(first).await?;
        stream.get_mut().flush().await?;
        if let Some((_, gate)) = pause {
            gate.opened().await;
            stream.get_mut().write_all(rest).await?;
            stream.get_mut().flush().await?;
        }
        if !reply.keeps_alive() {
            return Ok(if reply.resets() { End::Reset } else { End::Closed });
        }
    }
}

/// One request, or none where the peer has closed.
pub(super) async fn read_request<S>(stream: &mut BufReader<S>) -> io::Result<Option<Seen>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(mut seen) = read_head(stream).await? else { return Ok(None) };
    if seen.field("expect").is_some() {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    seen.body = read_body(stream, &seen).await?;
    Ok(Some(seen))
}

/// The head of a request, its body yet to be read; none where the peer has closed.
pub(super) async fn read_head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<Option<Seen>> {
    let first = read_line(stream).await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target), Some(_version)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let mut seen = Seen { method, target, fields: Vec::new(), body: Vec::new() };
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        seen.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(seen))
}

async fn read_body<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, seen: &Seen) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if seen.field("transfer-encoding").is_none() {
        let length = seen.field("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
        body.resize(length, 0);
        stream.read_exact(&mut body).await?;
        return Ok(body);
    }
    loop {
        let size = read_line(stream).await?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let begin = body.len();
        body.resize(begin + size, 0);
        stream.read_exact(&mut body[begin..]).await?;
        // The line end after the chunk; after the last one it is that of the (empty) trailers.
        read_line(stream).await?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A line without its end; empty at the end of the stream too.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
}
