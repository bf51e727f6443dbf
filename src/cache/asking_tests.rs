//! The hooks in a running proxy: a client on one side, an origin on the other, Pingora between them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::proxy::{HttpProxy, ProxyHttp, RangeType, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::QueryRule;
use super::super::policy::invalidates;
use super::*;
use crate::telemetry::meters::Meters;

/// A gateway of the cache alone: each hook as the module's documentation has it.
struct Gate {
    tiers: &'static Tiers,
    rules: Arc<Rules>,
    origin: SocketAddr,
    outcomes: Arc<Mutex<Vec<CacheOutcome>>>,
}

fn target(request: &RequestHeader) -> Target<'_> {
    Target { scheme: "http", host: "a", path: request.uri.path(), query: request.uri.query() }
}

fn asking(ctx: &mut Option<Asking>) -> &mut Asking {
    ctx.as_mut().expect("set in request_cache_filter")
}

#[async_trait]
impl ProxyHttp for Gate {
    type CTX = Option<Asking>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        let request = session.req_header().clone();
        *ctx = Some(Asking::enable(session, &self.rules, self.tiers, &target(&request)));
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, ctx: &mut Self::CTX) -> Result<CacheKey> {
        asking(ctx).key()
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        reader: &mut HitHandler,
        fresh: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(asking(ctx).hit(session, meta, reader, fresh))
    }

    fn cache_miss(&self, session: &mut Session, ctx: &mut Self::CTX) {
        asking(ctx).miss(session);
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        if asking(ctx).must_not_forward() {
            session.respond_error(504).await?;
            return Ok(false);
        }
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        _: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        asking(ctx).sending();
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if invalidates(&session.req_header().method, answer.status) {
            self.tiers.purge(&key::of(&self.rules.query, &target(session.req_header())));
        }
        asking(ctx).answered(answer);
        Ok(())
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        answer: &ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<RespCacheable> {
        Ok(asking(ctx).keep(session, answer))
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        ctx: &mut Self::CTX,
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        asking(ctx).variance(meta, request)
    }

    fn range_header_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        _: &mut Self::CTX,
    ) -> RangeType {
        crate::cache::range(session, answer)
    }

    fn should_serve_stale(&self, _: &mut Session, _: &mut Self::CTX, _: Option<&Error>) -> bool {
        false
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        asking(ctx).finish(&session.cache, answer);
        Ok(())
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Self::CTX) {
        self.outcomes.lock().push(asking(ctx).outcome(&session.cache));
    }
}

/// What the origin has been asked, and the word that lets it answer.
struct Origin {
    asked: Mutex<Vec<String>>,
    count: AtomicUsize,
    go: watch::Sender<bool>,
}

impl Origin {
    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn last(&self) -> String {
        self.asked.lock().last().cloned().unwrap_or_default()
    }
}

/// A proxy with the origin that answers each request head as `answer` says.
struct World {
    proxy: Arc<HttpProxy<Gate>>,
    tiers: &'static Tiers,
    origin: Arc<Origin>,
    outcomes: Arc<Mutex<Vec<CacheOutcome>>>,
    _shutdown: watch::Sender<bool>,
    shutdown: watch::Receiver<bool>,
}

impl World {
    async fn new(rules: Rules, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = Arc::new(Origin {
            asked: Mutex::default(),
            count: AtomicUsize::new(0),
            go: watch::Sender::new(true),
        });
        tokio::spawn(serve(listener, Arc::clone(&origin), Arc::new(answer)));
        let tiers = Tiers::new(64 << 20, &Meters::new());
        let outcomes = Arc::<Mutex<Vec<CacheOutcome>>>::default();
        let gate = Gate { tiers, rules: Arc::new(rules), origin: address, outcomes: Arc::clone(&outcomes) };
        let proxy = Arc::new(http_proxy(&Arc::new(ServerConf::default()), gate));
        let (sender, shutdown) = watch::channel(false);
        Self { proxy, tiers, origin, outcomes, _shutdown: sender, shutdown }
    }

    /// Sends a request and returns the whole answer.
    async fn ask(&self, head: &str) -> Answer {
        self.begin(head).await.await.expect("the client does not panic")
    }

    async fn begin(&self, head: &str) -> tokio::task::JoinHandle<Answer> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (proxy, shutdown) = (Arc::clone(&self.proxy), self.shutdown.clone());
        tokio::spawn(async move { proxy.process_new(Box::new(server), &shutdown).await });
        let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
        let fields = lines(fields);
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            let reading = timeout(Duration::from_secs(20), client.read_to_end(&mut bytes));
            reading.await.expect("an answer in time").expect("a readable answer");
            Answer(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    fn outcomes(&self) -> Vec<CacheOutcome> {
        self.outcomes.lock().clone()
    }
}

async fn serve(
    listener: TcpListener,
    origin: Arc<Origin>,
    answer: Arc<dyn Fn(&str) -> String + Send + Sync>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (origin, answer) = (Arc::clone(&origin), Arc::clone(&answer));
        tokio::spawn(async move { serve_one(stream, &origin, &*answer).await });
    }
}

async fn serve_one(mut stream: TcpStream, origin: &Origin, answer: &(dyn Fn(&str) -> String + Send + Sync)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    origin.asked.lock().push(head.clone());
    origin.count.fetch_add(1, Ordering::SeqCst);
    let mut go = origin.go.subscribe();
    let _ = go.wait_for(|go| *go).await;
    let _ = stream.write_all(answer(&head).as_bytes()).await;
}

struct Answer(String);

impl Answer {
    fn status(&self) -> &str {
        self.0.split(' ').nth(1).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let head = self.0.split("\r\n\r\n").next().unwrap_or_default();
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn cache(&self) -> &str {
        self.field("cache-status").unwrap_or("none")
    }

    fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }
}

/// Each line ended as HTTP has it.
fn lines(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim(), "\r\n"]).collect()
}

fn ok(fields: &str, body: &str) -> String {
    let fields = lines(fields);
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

#[tokio::test]
async fn a_hit_never_reaches_the_origin() {
    let world =
        World::new(Rules::default(), |_| ok("Cache-Control: max-age=60\nAge: 5\nX-A: 1", "hello")).await;
    let first = world.ask("GET /a").await;
    assert_eq!((first.status(), first.body()), ("200", "hello"));
    assert_eq!(first.cache(), "tidegate; fwd=uri-miss; fwd-status=200; stored");
    assert_eq!(first.field("age"), Some("5"));
    let second = world.ask("GET /a").await;
    assert_eq!((second.status(), second.body(), second.field("x-a")), ("200", "hello", Some("1")));
    assert!(
        ["tidegate; hit; ttl=54", "tidegate; hit; ttl=53"].contains(&second.cache()),
        "{}",
        second.cache()
    );
    assert!(["5", "6"].contains(&second.field("age").unwrap()));
    assert_eq!(second.field("connection"), Some("close"));
    assert_eq!(world.origin.count(), 1);
    assert_eq!(world.outcomes(), [CacheOutcome::Miss, CacheOutcome::Hit]);
}

#[tokio::test]
async fn concurrent_misses_are_one_fetch() {
    let world = World::new(Rules::default(), |_| ok("Cache-Control: max-age=60", &"x".repeat(200_000))).await;
    world.origin.go.send_replace(false);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(world.begin("GET /a").await);
    }
    while world.origin.count() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    world.origin.go.send_replace(true);
    let mut collapsed = 0;
    for client in clients {
        let answer = client.await.unwrap();
        assert_eq!((answer.status(), answer.body().len()), ("200", 200_000));
        collapsed += usize::from(answer.cache() == "tidegate; fwd=uri-miss; collapsed");
    }
    assert_eq!(world.origin.count(), 1);
    assert_eq!(collapsed, 7);
}

#[tokio::test]
async fn answers_not_to_share_are_fetched_by_each_and_keep_the_conditions_of_their_requests() {
    let world =
        World::new(Rules::default(), |_| ok("Cache-Control: private, max-age=60\nETag: \"1\"", "mine")).await;
    world.origin.go.send_replace(false);
    let clients = [world.begin("GET /a").await, world.begin("GET /a").await, world.begin("GET /a").await];
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    world.origin.go.send_replace(true);
    for client in clients {
        assert_eq!(client.await.unwrap().body(), "mine");
    }
    assert_eq!(world.origin.count(), 3);
    let again = world.ask("GET /a\nIf-None-Match: \"1\"").await;
    assert_eq!(again.cache(), "tidegate; fwd=bypass; fwd-status=200; detail=private");
    assert!(world.origin.last().to_lowercase().contains("if-none-match: \"1\""), "{}", world.origin.last());
}

#[tokio::test]
async fn a_url_is_stored_again_once_its_answers_can_be() {
    let count = AtomicUsize::new(0);
    let answer = move |_: &str| match count.fetch_add(1, Ordering::SeqCst) {
        0 => ok("Cache-Control: no-store", "0"),
        _ => ok("Cache-Control: max-age=60", "1"),
    };
    let world = World::new(Rules::default(), answer).await;
    assert_eq!(world.ask("GET /a").await.cache(), "tidegate; fwd=uri-miss; fwd-status=200; detail=no-store");
    assert_eq!(world.ask("GET /a").await.cache(), "tidegate; fwd=uri-miss; fwd-status=200; stored");
    assert_eq!(world.ask("GET /a").await.body(), "1");
    assert_eq!(world.origin.count(), 2);
}

#[tokio::test]
async fn head_is_answered_from_a_stored_get_and_passes_otherwise() {
    let world = World::new(Rules::default(), |head| {
        let answer = ok("Cache-Control: max-age=60", "hello");
        if head.starts_with("HEAD") { answer.replace("hello", "") } else { answer }
    })
    .await;
    let passed = world.ask("HEAD /a").await;
    assert_eq!(passed.cache(), "tidegate; fwd=uri-miss; fwd-status=200; detail=head");
    assert!(world.origin.last().starts_with("HEAD "));
    world.ask("GET /a").await;
    let hit = world.ask("HEAD /a").await;
    assert!(hit.cache().starts_with("tidegate; hit"), "{}", hit.cache());
    assert_eq!((hit.status(), hit.field("content-length"), hit.body()), ("200", Some("5"), ""));
    assert_eq!(world.origin.count(), 2);
}

#[tokio::test]
async fn ranges_are_cut_from_what_is_stored_and_pass_otherwise() {
    let world = World::new(Rules::default(), |head| {
        if head.to_lowercase().contains("range:") {
            let answer = ok("Cache-Control: max-age=60\nContent-Range: bytes 0-1/5", "he");
            return answer.replace("200 OK", "206 Partial Content");
        }
        ok("Cache-Control: max-age=60\nETag: W/\"1\"", "hello")
    })
    .await;
    let passed = world.ask("GET /a\nRange: bytes=0-1").await;
    assert_eq!((passed.status(), passed.body()), ("206", "he"));
    assert_eq!(passed.cache(), "tidegate; fwd=uri-miss; fwd-status=206; detail=range");
    world.ask("GET /a").await;
    let hit = world.ask("GET /a\nRange: bytes=1-3").await;
    assert_eq!((hit.status(), hit.body(), hit.field("content-range")), ("206", "ell", Some("bytes 1-3/5")));
    let several = world.ask("GET /a\nRange: bytes=0-0,4-4").await;
    assert_eq!(several.status(), "206");
    assert!(several.body().contains("bytes 4-4/5\r\n\r\no"), "{}", several.body());
    assert_eq!(world.ask("GET /a\nRange: bytes=9-").await.status(), "416");
    assert_eq!(world.ask("GET /a\nRange: bytes=1-3\nIf-Range: W/\"1\"").await.status(), "200");
    assert_eq!(world.origin.count(), 2);
}

#[tokio::test]
async fn other_methods_pass_untouched_and_invalidate() {
    let world = World::new(Rules::default(), |_| ok("Cache-Control: max-age=60", "hello")).await;
    world.ask("GET /a").await;
    let post = world.ask("POST /a\nContent-Length: 0\nIf-None-Match: \"1\"").await;
    assert_eq!((post.body(), post.cache()), ("hello", "tidegate; fwd=method; fwd-status=200; detail=method"));
    assert!(world.origin.last().starts_with("POST /a"));
    assert!(world.origin.last().to_lowercase().contains("if-none-match"));
    assert_eq!(world.ask("GET /a").await.cache(), "tidegate; fwd=uri-miss; fwd-status=200; stored");
    assert_eq!(world.origin.count(), 3);
}

#[tokio::test]
async fn what_is_stale_is_validated_and_renewed_by_a_304() {
    let world = World::new(Rules::default(), |head| {
        if head.to_lowercase().contains("if-none-match: \"1\"") {
            let fields = "Cache-Control: max-age=60\r\nETag: \"1\"\r\nX-New: 1\r\nSet-Cookie: a=b\r\n";
            return format!("HTTP/1.1 304 Not Modified\r\nConnection: close\r\n{fields}\r\n");
        }
        ok("Cache-Control: max-age=0\nETag: \"1\"\nAge: 3", "hello")
    })
    .await;
    world.ask("GET /a").await;
    let validated = world.ask("GET /a").await;
    assert_eq!((validated.status(), validated.body()), ("200", "hello"));
    assert_eq!(validated.cache(), "tidegate; fwd=stale; fwd-status=304");
    let fields = ["x-new", "set-cookie", "age"].map(|name| validated.field(name));
    assert_eq!(fields, [Some("1"), Some("a=b"), None]);
    let hit = world.ask("GET /a").await;
    assert!(hit.cache().starts_with("tidegate; hit"), "{}", hit.cache());
    assert_eq!((hit.body(), hit.field("x-new"), hit.field("set-cookie")), ("hello", Some("1"), None));
    let client = world.ask("GET /a\nIf-None-Match: \"1\"").await;
    assert_eq!((client.status(), client.body()), ("304", ""));
    assert_eq!(world.origin.count(), 2);
    let forced = world.ask("GET /a\nCache-Control: no-cache").await;
    assert_eq!(forced.cache(), "tidegate; fwd=request; fwd-status=304");
    assert_eq!(world.outcomes()[4], CacheOutcome::Stale);
}

#[tokio::test]
async fn only_if_cached_is_answered_from_the_store_or_not_at_all() {
    let world = World::new(Rules::default(), |_| ok("Cache-Control: max-age=60", "hello")).await;
    assert_eq!(world.ask("GET /a\nCache-Control: only-if-cached").await.status(), "504");
    assert_eq!(world.origin.count(), 0);
    world.ask("GET /a").await;
    assert_eq!(world.ask("GET /a\nCache-Control: only-if-cached").await.body(), "hello");
}

#[tokio::test]
async fn variants_are_kept_apart() {
    let world = World::new(Rules::default(), |head| {
        let german = head.to_lowercase().contains("accept-language: de");
        ok("Cache-Control: max-age=60\nVary: Accept-Language", if german { "hallo" } else { "hello" })
    })
    .await;
    let (german, english) = ("GET /a\nAccept-Language: de", "GET /a\nAccept-Language: en");
    assert_eq!(world.ask(german).await.body(), "hallo");
    let miss = world.ask(english).await;
    assert_eq!((miss.body(), miss.cache()), ("hello", "tidegate; fwd=vary-miss; fwd-status=200; stored"));
    for (request, body) in [(german, "hallo"), (english, "hello")] {
        let hit = world.ask(request).await;
        assert_eq!(hit.body(), body);
        assert!(hit.cache().starts_with("tidegate; hit"), "{}", hit.cache());
    }
    assert_eq!(world.origin.count(), 2);
    world
        .tiers
        .purge(&key::of(&QueryRule::All, &Target { scheme: "http", host: "a", path: "/a", query: None }));
    assert!(world.ask(german).await.cache().contains("fwd=uri-miss"));
    assert!(
        world.ask(english).await.cache().contains("fwd=vary-miss"),
        "the purge took the other variant, too"
    );
}

#[tokio::test]
async fn known_callers_get_only_what_is_called_public() {
    let world = World::new(Rules { ttl: Some(Duration::from_secs(60)), ..Rules::default() }, |head| {
        let fields = if head.contains("/public") { "Cache-Control: public" } else { "" };
        ok(fields, if head.to_lowercase().contains("authorization") { "yours" } else { "all" })
    })
    .await;
    for path in ["/own", "/public"] {
        assert_eq!(world.ask(&format!("GET {path}")).await.body(), "all");
    }
    let own = world.ask("GET /own\nAuthorization: Bearer x").await;
    assert_eq!(
        (own.body(), own.cache()),
        ("yours", "tidegate; fwd=bypass; fwd-status=200; detail=authorization")
    );
    assert_eq!(world.ask("GET /public\nAuthorization: Bearer x").await.body(), "all");
    assert_eq!(world.ask("GET /own").await.body(), "all");
    assert_eq!(world.origin.count(), 3);
}

#[tokio::test]
async fn what_is_too_large_reaches_the_client_and_not_the_store() {
    let rules = Rules { max_object: 1000, ..Rules::default() };
    let world = World::new(rules, |head| {
        if head.contains("/announced") {
            return ok("Cache-Control: max-age=60", &"x".repeat(2000));
        }
        let chunk = format!("7d0\r\n{}\r\n", "x".repeat(2000));
        let fields = "Cache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n";
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n{}0\r\n\r\n", chunk.repeat(300))
    })
    .await;
    let announced = world.ask("GET /announced").await;
    assert_eq!(announced.body().len(), 2000);
    assert_eq!(announced.cache(), "tidegate; fwd=uri-miss; fwd-status=200; detail=too-large");
    for count in [2, 3] {
        let chunked = world.ask("GET /chunked").await;
        assert_eq!(chunked.body().matches('x').count(), 600_000);
        assert!(chunked.body().ends_with("0\r\n\r\n"));
        assert_eq!(world.origin.count(), count);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored() {
    let world = World::new(Rules::default(), |_| {
        ok("Cache-Control: max-age=60", "hello").replace("Content-Length: 5", "Content-Length: 50")
    })
    .await;
    for count in [1, 2] {
        assert_ne!(world.ask("GET /a").await.body().len(), 50);
        assert_eq!(world.origin.count(), count);
    }
}

#[tokio::test]
async fn an_answer_asked_for_before_a_purge_is_not_stored() {
    let world = World::new(Rules::default(), |_| ok("Cache-Control: max-age=60", "hello")).await;
    world.origin.go.send_replace(false);
    let client = world.begin("GET /a").await;
    while world.origin.count() == 0 {
        tokio::task::yield_now().await;
    }
    world
        .tiers
        .purge(&key::of(&QueryRule::All, &Target { scheme: "http", host: "a", path: "/a", query: None }));
    world.origin.go.send_replace(true);
    let answer = client.await.unwrap();
    assert_eq!(
        (answer.body(), answer.cache()),
        ("hello", "tidegate; fwd=uri-miss; fwd-status=200; detail=purged")
    );
    assert_eq!(world.ask("GET /a").await.cache(), "tidegate; fwd=uri-miss; fwd-status=200; stored");
}
