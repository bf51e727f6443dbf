//! Asking servers how they are: one GET in a while, and what the answers make of a server's state.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::address::Address;
use super::clock::Moment;
use super::settings::Protocol;
use super::way::{NotReady, Ready, Way};

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path that is asked for with GET; 2xx and 3xx pass.
    pub path: String,
    /// Time between two checks of a server, give or take a tenth.
    pub interval: Duration,
    /// Longest time for a check, from connecting to the head of the answer.
    pub timeout: Duration,
    /// Passes in a row before a server that was down is up; the very first pass is enough at start.
    pub healthy_threshold: u16,
    /// Failures in a row before a server that was up is down.
    pub unhealthy_threshold: u16,
    /// The `Host` that is asked for; the server as it is configured when absent.
    pub host: Option<String>,
}

impl HealthCheck {
    /// The check of this path, everything else by default.
    pub fn of_path(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            host: None,
        }
    }

    /// The time to the next check. Spread, so that the checks of a fleet do not come in step.
    pub(super) fn pause(&self, random: f64) -> Duration {
        self.interval.mul_f64(0.9 + 0.2 * random)
    }
}

/// What a check made different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The server may be chosen from now on.
    Up,
    /// The server may not be chosen any more.
    Down,
    /// The server was not up yet, and its first check says that it is not now.
    NotYet,
}

/// The last check of a server.
#[derive(Clone, Debug)]
pub struct LastCheck {
    /// When it ended.
    pub at: Moment,
    /// How long it took.
    pub elapsed: Duration,
    /// Why it failed; `None` if it passed.
    pub failure: Option<Arc<str>>,
    /// Whether it failed for want of TLS.
    pub of_tls: bool,
}

/// A server's state by its checks. One task notes results; everybody reads.
#[derive(Debug)]
pub struct Health {
    state: AtomicU8,
    /// Results in a row that speak against the state.
    against: AtomicU32,
    last: ArcSwapOption<LastCheck>,
}

/// Not up yet; the first pass changes that.
const NEW: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

impl Health {
    /// A server that has not passed a check yet, and so is not up.
    pub fn unknown() -> Self {
        Self::with(NEW)
    }

    /// A server that counts as up until checks say otherwise.
    pub fn presumed_up() -> Self {
        Self::with(UP)
    }

    fn with(state: u8) -> Self {
        Self { state: AtomicU8::new(state), against: AtomicU32::new(0), last: ArcSwapOption::empty() }
    }

    /// Whether the server may be chosen.
    pub fn is_up(&self) -> bool {
        self.state.load(Relaxed) == UP
    }

    /// The last check; `None` before the first.
    pub fn last(&self) -> Option<Arc<LastCheck>> {
        self.last.load_full()
    }

    /// Notes the result of a check.
    pub fn note(&self, result: LastCheck, rules: &HealthCheck) -> Option<Change> {
        let passed = result.failure.is_none();
        let first = self.last.swap(Some(Arc::new(result))).is_none();
        let state = self.state.load(Relaxed);
        if passed == (state == UP) {
            self.against.store(0, Relaxed);
            return (first && state == NEW).then_some(Change::NotYet);
        }
        let enough = match state {
            NEW => 1,
            UP => u32::from(rules.unhealthy_threshold),
            _ => u32::from(rules.healthy_threshold),
        };
        if self.against.fetch_add(1, Relaxed).saturating_add(1) < enough {
            return None;
        }
        self.against.store(0, Relaxed);
        self.state.store(if passed { UP } else { DOWN }, Relaxed);
        Some(if passed { Change::Up } else { Change::Down })
    }
}

/// Checks a server once, on the way that requests take, and says how it went.
pub async fn check(address: &Address, name: &str, way: &Way, rules: &HealthCheck) -> LastCheck {
    let began = Instant::now();
    let host = rules.host.as_deref().unwrap_or(name);
    let result = match timeout(rules.timeout, ask(address, host, way, &rules.path)).await {
        Ok(result) => result,
        Err(_) => Err(CheckFailed::TimedOut(rules.timeout)),
    };
    let of_tls = matches!(result, Err(CheckFailed::NotReady(NotReady::Tls(_))));
    let failure = result.err().map(|failure| Arc::from(failure.to_string()));
    LastCheck { at: Moment::now(), elapsed: began.elapsed(), failure, of_tls }
}

/// Why a check failed. The messages carry their sources: they are shown as they are on the admin listener.
#[derive(Debug, thiserror::Error)]
enum CheckFailed {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error("no HTTP answer: {}", chain(.0))]
    Broken(#[from] hyper::Error),
    #[error("no HTTP/2 answer: {0}")]
    Broken2(#[from] h2::Error),
    #[error("the server does not agree to HTTP/2")]
    NotHttp2,
    #[error("answered {}", .0.as_u16())]
    Status(StatusCode),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("cannot be asked: {0}")]
    Request(#[from] http::Error),
}

/// An error with its innermost source, which says more than what lies between.
fn chain(error: &hyper::Error) -> String {
    let mut source = error.source();
    while let Some(inner) = source.and_then(Error::source) {
        source = Some(inner);
    }
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

async fn ask(address: &Address, host: &str, way: &Way, path: &str) -> Result<(), CheckFailed> {
    // A connection of its own: what is asked is whether a new one can be made.
    let status = match address {
        Address::Inet(address) => on(TcpStream::connect(address).await, host, way, path).await?,
        Address::Unix(socket) => on(UnixStream::connect(socket).await, host, way, path).await?,
    };
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(CheckFailed::Status(status)) }
}

async fn on<S>(connected: io::Result<S>, host: &str, way: &Way, path: &str) -> Result<StatusCode, CheckFailed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = connected.map_err(CheckFailed::Connect)?;
    match way.get_ready(stream, None, false).await? {
        Ready::Plain(stream) if way.protocol() == Protocol::Http2 => {
            http2(stream, &format!("http://{host}{path}")).await
        }
        Ready::Plain(stream) => http1(stream, host, path).await,
        Ready::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            http2(stream, &format!("https://{host}{path}")).await
        }
        Ready::Tls(_) if way.protocol() == Protocol::Http2 => Err(CheckFailed::NotHttp2),
        Ready::Tls(stream) => http1(stream, host, path).await,
    }
}

async fn http1<S>(stream: S, host: &str, path: &str) -> Result<StatusCode, CheckFailed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "tidegate-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;

    let mut answer = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut answer => response?,
        // The connection may end first: then the answer is there already, or is the error.
        ended = connection => match (answer.await, ended) {
            (Err(_), Err(why)) => return Err(why.into()),
            (response, _) => response?,
        },
    };
    Ok(response.status())
}

async fn http2<S>(stream: S, url: &str) -> Result<StatusCode, CheckFailed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(url).header(header::USER_AGENT, "tidegate-health").body(())?;
    let (mut sender, connection) = h2::client::handshake(stream).await?;
    let (mut answer, _sent) = sender.send_request(request, true)?;
    let response = tokio::select! {
        response = &mut answer => response?,
        // The same.
        _ = connection => answer.await?,
    };
    Ok(response.status())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::testing::{Origin, Says, refusing_address};
    use super::*;

    fn rules() -> HealthCheck {
        HealthCheck::of_path("/healthz")
    }

    fn result(passed: bool) -> LastCheck {
        LastCheck {
            at: Moment::now(),
            elapsed: Duration::ZERO,
            failure: (!passed).then(|| Arc::from("answered 503")),
            of_tls: false,
        }
    }

    /// Feeds `+` (passed) and `-` (failed), and returns the state after each: `U` up, `.` not up.
    fn after(health: &Health, results: &str) -> String {
        let note = |c| {
            health.note(result(c == '+'), &rules());
            if health.is_up() { 'U' } else { '.' }
        };
        results.chars().map(note).collect()
    }

    #[test]
    fn thresholds_decide_when_a_server_goes_and_comes() {
        for (results, states) in [
            ("", ""),
            ("+", "U"),
            ("-", "."),
            ("---+", "...U"),     // the first pass is enough at start, however late
            ("+--", "UUU"),       // two failures are not three
            ("+---", "UUU."),     // three are
            ("+--+--", "UUUUUU"), // in a row
            ("+---+", "UUU.."),   // once down, one pass is not enough
            ("+---++", "UUU..U"),
            ("+---+-+", "UUU...."),
            ("+---+-++", "UUU....U"),
            ("+---++--", "UUU..UUU"),
            ("+---++---", "UUU..UUU."),
        ] {
            assert_eq!(after(&Health::unknown(), results), states, "{results}");
        }
        assert_eq!(after(&Health::presumed_up(), "---+"), "UU..");
    }

    #[test]
    fn each_change_is_told_once() {
        let health = Health::unknown();
        let told: Vec<_> = "--+---+++".chars().map(|c| health.note(result(c == '+'), &rules())).collect();
        let (not_yet, up, down) = (Some(Change::NotYet), Some(Change::Up), Some(Change::Down));
        assert_eq!(told, [not_yet, None, up, None, None, down, None, up, None]);
    }

    #[test]
    fn pauses_stay_within_a_tenth_of_the_interval() {
        assert_eq!(rules().pause(0.0), Duration::from_millis(4_500));
        assert_eq!(rules().pause(0.5), Duration::from_secs(5));
        assert!(rules().pause(0.999) < Duration::from_millis(5_500));
    }

    #[tokio::test]
    async fn success_and_redirects_pass() {
        for status in [200, 204, 302] {
            let origin = Origin::start(Says::status(status)).await;
            let last = check(&origin.address().into(), "users:80", &Way::default(), &rules()).await;
            assert_eq!(last.failure, None, "{status}");
        }
    }

    #[tokio::test]
    async fn a_socket_of_the_file_system_is_checked_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.sock");
        let address = Address::Unix(path.as_path().into());
        let refused =
            check(&address, "users", &Way::default(), &rules()).await.failure.expect("nobody listens");
        assert!(refused.starts_with("cannot connect"), "{refused}");

        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 20];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n").await.unwrap();
            asked
        });
        assert_eq!(check(&address, "users", &Way::default(), &rules()).await.failure, None);
        assert_eq!(&served.await.unwrap(), b"GET /healthz HTTP/1.");
    }

    #[tokio::test]
    async fn a_check_asks_for_the_path_under_the_configured_name() {
        let origin = Origin::start(Says::status(200)).await;
        check(&origin.address().into(), "users:80", &Way::default(), &rules()).await;
        let host = HealthCheck { host: Some("users.example".into()), ..rules() };
        check(&origin.address().into(), "users:80", &Way::default(), &host).await;
        let asked = origin.requests();
        assert!(asked[0].starts_with("GET /healthz HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[0].contains("host: users:80\r\n"), "{asked:?}");
        assert!(asked[1].contains("host: users.example\r\n"), "{asked:?}");
    }

    #[tokio::test]
    async fn whatever_is_wrong_is_a_failure_with_its_reason() {
        let reason = async |address| {
            check(&Address::from(address), "users:80", &Way::default(), &rules())
                .await
                .failure
                .expect("it must fail")
                .to_string()
        };
        let refusing = refusing_address().await;
        assert!(reason(refusing).await.starts_with("cannot connect: "), "refuses");

        let unavailable = Origin::start(Says::status(503)).await;
        assert_eq!(reason(unavailable.address()).await, "answered 503");

        let silent = Origin::start(Says::Nothing).await;
        let soon = HealthCheck { timeout: Duration::from_millis(50), ..rules() };
        let last = check(&silent.address().into(), "users:80", &Way::default(), &soon).await;
        assert_eq!(last.failure.as_deref(), Some("no answer within 50ms"));

        let closing = Origin::start(Says::text("")).await;
        assert!(reason(closing.address()).await.starts_with("no HTTP answer: "));

        let babbling = Origin::start(Says::text("SSH-2.0-OpenSSH_9.2\r\n\r\n")).await;
        assert!(reason(babbling.address()).await.starts_with("no HTTP answer: "));
    }
}
