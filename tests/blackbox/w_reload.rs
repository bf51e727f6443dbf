//! Changes of the configuration while the gateway runs: all of it or nothing, and nobody notices but by what is new.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::speaker::{self, Speaker};
use crate::support::{Certs, Client, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, https, plain};

const LOADED: &str = "tidegate_config_reloads_total{outcome=\"loaded\"}";
const REFUSED: &str = "tidegate_config_reloads_total{outcome=\"refused\"}";

/// One listener, and one route that answers with this word; `more` are top-level keys.
fn saying(word: &str, more: &str) -> String {
    let top = plain();
    format!("{top}watch = false\n{more}\n[routes.all]\nrespond = {{ body = {word:?} }}\n")
}

/// The same with the files watched.
fn watched(word: &str, more: &str) -> String {
    saying(word, more).replace("watch = false\n", "")
}

/// What a new connection is answered.
async fn said(address: SocketAddr) -> String {
    Raw::tcp(address).await.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.text().to_owned()
}

async fn comes_to_say(gateway: &Gateway, word: &str) {
    let says = async || said(gateway.http()).await == word;
    eventually(PATIENCE, &format!("the answer is {word}"), says).await;
}

/// `tidegate reload`: its exit code and what it printed.
async fn reload(gateway: &Gateway) -> (Option<i32>, String) {
    Gateway::run(&["reload", "--admin", &gateway.admin().to_string()]).await
}

/// A port that nobody has; who binds it soon will get it.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

// ── who asks for it ─────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn sighup_reads_the_configuration_again() {
    let mut gateway = Gateway::start(&saying("one", "")).await;
    gateway.rewrite(&saying("two", ""));
    assert_eq!(said(gateway.http()).await, "one", "nobody has asked for it");
    gateway.process().signal(Signal::HUP);
    comes_to_say(&gateway, "two").await;

    let counted = async || gateway.count(LOADED).await == 1;
    eventually(PATIENCE, "it is counted", counted).await;
    assert_eq!(gateway.count("tidegate_config_generation").await, 2);
    let logged = async || gateway.wrote().contains("routes changed: all");
    eventually(PATIENCE, "the log says what changed", logged).await;
}

#[tokio::test]
async fn the_command_says_what_changed_and_what_waits_for_a_restart() {
    let gateway = Gateway::start(&saying("one", "")).await;
    assert_eq!(gateway.admin_get("/reload").await.json()["generation"], 1);
    let more = "threads = 3\ncache.memory = \"64MiB\"\ndownstream.idle_timeout = \"7s\"\nshutdown_grace = \"9s\"\n\
                routes.new = { path = \"/new\", upstream = \"127.0.0.1:9\" }\n";
    gateway.rewrite(&saying("two", more));
    let (code, printed) = reload(&gateway).await;
    assert_eq!(code, Some(0), "{printed}");
    let wanted = "reloaded: configuration 2 is in force\n  routes added: `new`\n  routes changed: `all`\n  \
                  upstreams added: `127.0.0.1:9`\n  options changed: `downstream.idle_timeout`, `shutdown_grace`\n  \
                  options that wait for a restart: `threads`, `cache.memory`\n";
    assert_eq!(printed, wanted);
    assert_eq!(said(gateway.http()).await, "two");

    let (page, config) = (gateway.admin_get("/reload").await.json(), gateway.admin_get("/config").await);
    assert_eq!(page["restart"], serde_json::json!(["threads", "cache.memory"]));
    assert!(config.field("last-modified").is_some());
    let config = config.json();
    assert_eq!(config["threads"], serde_json::Value::Null, "what is shown is in force: {config}");
    assert_eq!(config["downstream"]["idle_timeout"], "7s");
    let warned = async || gateway.wrote().contains("waits for a restart");
    eventually(PATIENCE, "the log says so", warned).await;

    let (code, printed) = reload(&gateway).await;
    assert_eq!(code, Some(0));
    assert!(printed.contains("wait for a restart") && !printed.contains("routes"), "{printed}");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_every_place_and_the_one_before_stays() {
    let gateway = Gateway::start(&saying("one", "")).await;
    gateway.rewrite(&saying("two", "[routes.bad]\nupstream = \"nobody\"\ncahce = \"30s\"\n"));
    let (code, printed) = reload(&gateway).await;
    assert_eq!(code, Some(2), "{printed}");
    for part in ["unknown key `cahce`", "did you mean `cache`?", "there is no upstream `nobody`", "^"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let last = printed.trim_end().lines().last().unwrap();
    assert!(last.starts_with("2 errors; the running configuration (loaded "), "{printed}");
    assert!(last.ends_with(") stays in force"), "{printed}");
    assert_eq!(said(gateway.http()).await, "one");
    assert_eq!((gateway.count(REFUSED).await, gateway.count("tidegate_config_refused").await), (1, 1));
    assert_eq!(gateway.count("tidegate_config_generation").await, 1);
    assert_eq!(gateway.admin_get("/reload").await.json()["refused"]["wrong"], true);

    gateway.rewrite(&saying("three", ""));
    assert_eq!(reload(&gateway).await.0, Some(0));
    assert_eq!(said(gateway.http()).await, "three");
    assert_eq!(gateway.count("tidegate_config_refused").await, 0);
}

// ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_changed_file_is_taken_and_a_broken_one_is_refused_once() {
    let gateway = Gateway::start(&watched("one", "")).await;
    gateway.rewrite(&watched("two", ""));
    comes_to_say(&gateway, "two").await;

    gateway.rewrite(&watched("three", "lisen = 1"));
    let refused = async || gateway.count("tidegate_config_refused").await == 1;
    eventually(PATIENCE, "the broken file is refused", refused).await;
    assert_eq!(said(gateway.http()).await, "two");
    // Written anew with the same content it is tried again, and told of no second time.
    gateway.rewrite(&watched("three", "lisen = 1"));
    let tried = async || gateway.count(REFUSED).await == 2;
    eventually(PATIENCE, "it is tried again", tried).await;
    gateway.rewrite(&watched("four", ""));
    comes_to_say(&gateway, "four").await;
    let wrote = gateway.wrote();
    assert_eq!(wrote.matches("configuration refused").count(), 1, "{wrote}");
    assert!(wrote.contains("tidegate.toml:3:1: unknown key `lisen`"), "{wrote}");
}

#[tokio::test]
async fn included_files_are_watched_those_that_come_and_those_that_go() {
    let part = |word: &str| format!("[routes.part]\npath = \"/part\"\nrespond = {{ body = {word:?} }}\n");
    let beside = [("part-a.toml", &*part("one"))];
    let gateway = Gateway::start_with(&watched("all", "include = [\"part-*.toml\"]"), &beside).await;
    let comes_to_say = async |word: &str| {
        let says = async || {
            let request = "GET /part HTTP/1.1\r\nHost: a.test\r\n\r\n";
            Raw::tcp(gateway.http()).await.ask(request).await.text() == word
        };
        eventually(PATIENCE, &format!("the answer is {word}"), says).await;
    };
    comes_to_say("one").await;
    let at = |name: &str| gateway.folder().join(name);
    fs::write(at("part-a.toml"), part("two")).unwrap();
    comes_to_say("two").await;
    fs::remove_file(at("part-a.toml")).unwrap();
    comes_to_say("all").await;
    fs::write(at("part-b.toml"), part("three")).unwrap();
    comes_to_say("three").await;
}

#[tokio::test]
async fn a_folder_is_swapped_behind_a_symbolic_link() {
    let gateway = Gateway::start(&watched("one", "")).await;
    let at = |name: &str| gateway.folder().join(name);
    // As a mounted ConfigMap has it: the file is a link, through a link to a folder.
    for (folder, word) in [("..1", "one"), ("..2", "two"), ("..3", "three")] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(at(folder).join("tidegate.toml"), watched(word, "")).unwrap();
    }
    symlink("..2", at("..data")).unwrap();
    symlink("..data/tidegate.toml", at("link")).unwrap();
    fs::rename(at("link"), at("tidegate.toml")).unwrap();
    comes_to_say(&gateway, "two").await;
    symlink("..3", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    comes_to_say(&gateway, "three").await;
}

// ── listeners ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_listener_is_added_and_removed_and_what_it_accepted_goes_on_to_its_end() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, gate, second) = (Origin::start("one").await, Gate::closed(), free());
    origin.answer("/slow", Reply::ok("at last").behind(&gate));
    let config = |besides: String| {
        let top = https(&certs).replace(":0\"]", &format!(":0\"{besides}]"));
        format!("{top}watch = false\n[routes.all]\nupstream = \"{}\"\n", origin.address())
    };
    let gateway = Gateway::start(&config(String::new())).await;
    TcpStream::connect(second).await.unwrap_err();

    gateway.rewrite(&config(format!(", {{ url = \"http://{second}\", redirect = false }}")));
    let (code, printed) = reload(&gateway).await;
    assert!(code == Some(0) && printed.contains(&format!("listeners added: `http://{second}`")), "{printed}");
    assert_eq!(Raw::tcp(second).await.ask("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 200);

    let (mut idle, mut busy) = (Raw::tcp(second).await, Raw::tcp(second).await);
    idle.ask("GET /b HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    busy.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let arrived = async || origin.requests("/slow") == 1;
    eventually(PATIENCE, "the request is under way", arrived).await;
    let mut stays = Raw::tls(gateway.https(), "a.test", &certs).await;
    stays.ask("GET /c HTTP/1.1\r\nHost: a.test\r\n\r\n").await;

    gateway.rewrite(&config(String::new()));
    let (code, printed) = reload(&gateway).await;
    assert!(code == Some(0) && printed.contains("listeners removed"), "{printed}");
    TcpStream::connect(second).await.unwrap_err();
    assert!(idle.is_closed_within(PATIENCE).await, "an idle connection of it ends");
    gate.open();
    let (head, body) = busy.answer().await;
    assert_eq!(body, b"at last");
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{head}");
    assert!(busy.rest().await.is_empty(), "and with its request, the connection");

    // Others go on, and the address can be had again.
    let answer = stays.ask("GET /d HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(answer.status == 200 && answer.field("connection") != Some("close"), "{answer:?}");
    gateway.rewrite(&config(format!(", {{ url = \"http://{second}\", redirect = false }}")));
    assert_eq!(reload(&gateway).await.0, Some(0));
    TcpStream::connect(second).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_changes_nothing_at_all() {
    let gateway = Gateway::start(&saying("one", "")).await;
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, other) = (held.local_addr().unwrap(), free());
    let more = format!(":0\", \"http://{other}\", \"http://{taken}\"]");
    gateway.rewrite(&saying("two", "").replace(":0\"]", &more));
    let (code, printed) = reload(&gateway).await;
    drop(held);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains(&format!("cannot listen on http://{taken}: the address is in use")),
        "{printed}"
    );
    assert!(printed.contains("stays in force"), "{printed}");
    assert_eq!(said(gateway.http()).await, "one");
    TcpStream::connect(other).await.unwrap_err();
}

#[tokio::test]
async fn a_flag_of_a_listener_changes_without_a_gap() {
    let gateway = Gateway::start(&saying("one", "trusted_proxies = [\"127.0.0.0/8\"]")).await;
    let mut before = Raw::tcp(gateway.http()).await;
    before.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let flagged = "{ url = \"http://127.0.0.1:0\", proxy_protocol = true }";
    let config =
        saying("two", "trusted_proxies = [\"127.0.0.0/8\"]").replace("\"http://127.0.0.1:0\"", flagged);
    gateway.rewrite(&config);
    let (code, printed) = reload(&gateway).await;
    assert_eq!(code, Some(0), "{printed}");

    let request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(before.ask(request).await.text(), "two", "an open connection goes on as it began");
    let mut introduced = Raw::tcp(gateway.http()).await;
    let answer = introduced.ask(format!("PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n{request}")).await;
    assert_eq!(answer.text(), "two");
    let mut plain = Raw::tcp(gateway.http()).await;
    plain.send(request).await;
    assert!(plain.rest().await.is_empty(), "whoever comes without the header is not let in");
}

// ── what goes on ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Switches to another protocol, and from then on gives back what it is given.
async fn echo(mut stream: TcpStream) {
    speaker::head(&mut stream).await;
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let _ = stream.write_all(switch).await;
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        let _ = stream.write_all(&bytes[..count]).await;
    }
}

#[tokio::test]
async fn websockets_and_streams_end_on_the_plan_that_they_began_with() {
    let (socket, origin, gate) = (Speaker::start(echo).await, Origin::start("one").await, Gate::closed());
    origin.answer("/stream", Reply::ok("first and last").chunked().paused_after(75, &gate));
    let routes = format!(
        "routes.chat = {{ path = \"/chat\", upstream = \"{}\" }}\nroutes.stream = {{ path = \"/stream\", upstream = \"{}\" }}",
        socket.address(),
        origin.address()
    );
    let gateway = Gateway::start(&saying("one", &routes)).await;
    let mut chat = Raw::tcp(gateway.http()).await;
    chat.send(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert!(chat.head().await.starts_with("HTTP/1.1 101 "));
    let mut stream = Raw::tcp(gateway.http()).await;
    stream.send("GET /stream HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(stream.head().await.starts_with("HTTP/1.1 200 "));

    // Neither route is there any more, nor are their upstreams.
    gateway.rewrite(&saying("two", ""));
    let (code, printed) = reload(&gateway).await;
    assert!(code == Some(0) && printed.contains("routes removed: `chat`, `stream`"), "{printed}");
    assert_eq!(said(gateway.http()).await, "two");
    for word in ["still", "here"] {
        chat.send(word).await;
        assert_eq!(chat.bytes(word.len()).await, word.as_bytes());
    }
    gate.open();
    let mut body = Vec::new();
    while !body.ends_with(b"last") {
        body.extend(stream.chunk().await);
    }
    assert_eq!(body, b"first and last");
    assert!(stream.chunk().await.is_empty());
}

#[tokio::test]
async fn health_and_limits_are_carried_over() {
    let certs = Certs::for_names(&["a.test"]);
    let (well, ill, gate) = (Origin::start("well").await, Origin::start("ill").await, Gate::closed());
    ill.answer("/healthz", Reply::new(500, ""));
    let config = |interval: &str, more: &str| {
        format!(
            "{}watch = false\n[upstreams.main]\nservers = [\"{}\", \"{}\"]\n\
             health = {{ path = \"/healthz\", interval = \"{interval}\", timeout = \"30s\" }}\n\
             [routes.all]\nupstream = \"main\"\nrate_limit = {{ rate = \"1/h\", burst = 3 }}\n{more}",
            https(&certs),
            well.address(),
            ill.address()
        )
    };
    let gateway = Gateway::start(&config("100ms", "")).await;
    gateway.ready().await;
    let client = Client::http2(&gateway, &certs);
    for _ in 0..2 {
        assert_eq!(client.get("https://a.test/").await.field("served-by"), Some("well"));
    }

    // From now on no check comes to an end: what is known is what was.
    for origin in [&well, &ill] {
        origin.answer("/healthz", Reply::ok("").behind(&gate));
    }
    gateway.rewrite(&config("200ms", "max_body = \"1MiB\"\n"));
    let (code, printed) = reload(&gateway).await;
    assert!(code == Some(0) && printed.contains("upstreams changed: `main`"), "{printed}");
    assert_eq!(gateway.server(&well.address().to_string()).await["state"], "up");
    assert_eq!(gateway.server(&ill.address().to_string()).await["state"], "down");
    assert_eq!(client.get("https://a.test/").await.field("served-by"), Some("well"));
    assert_eq!(client.get("https://a.test/").await.status, 429, "the burst was used up before and after");
    assert_eq!(gateway.count("tidegate_limit_decisions_total{outcome=\"admitted\"}").await, 3);
}

#[tokio::test]
async fn a_new_upstream_is_asked_only_once_its_servers_have_passed_a_check() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let config = |name: &str, origin: &Origin| {
        format!(
            "{}watch = false\n[upstreams.{name}]\nservers = [\"{}\"]\nhealth = \"/healthz\"\n\
             [routes.all]\nupstream = \"{name}\"\n",
            https(&certs),
            origin.address()
        )
    };
    let gateway = Gateway::start(&config("old", &one)).await;
    gateway.ready().await;
    let client = Client::http1(&gateway, &certs);
    gateway.rewrite(&config("new", &two));
    assert_eq!(reload(&gateway).await.0, Some(0));
    let answer = client.get("https://a.test/").await;
    assert_eq!((answer.status, answer.field("served-by")), (200, Some("two")));
    assert!(two.requests("/healthz") > 0);
}

#[tokio::test]
async fn certificates_in_force_stay_while_their_files_are_broken() {
    let certs = Certs::for_names(&["a.test"]);
    let config = |word: &str| {
        format!("{}watch = false\n[routes.all]\nrespond = {{ body = {word:?} }}\n", https(&certs))
    };
    let gateway = Gateway::start(&config("one")).await;
    fs::write(&certs.files()[0], "half-written").unwrap();
    gateway.rewrite(&config("two"));
    let (code, printed) = reload(&gateway).await;
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(Client::http1(&gateway, &certs).get("https://a.test/").await.text(), "two");
}
