//! The life of the process: how it starts or says why not, how it ends, and what it prints when only asked.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::client::Answer;
use crate::support::{Certs, Client, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, https};

const GET: &str = "GET /fine HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A gateway with everything sent to the origin; `more` are top-level keys.
async fn before(origin: &Origin, certs: &Certs, more: &str) -> Gateway {
    let (top, origin) = (https(certs), origin.address());
    Gateway::start(&format!("{top}{more}\n[routes.all]\nupstream = \"{origin}\"\n")).await
}

async fn refuses(address: SocketAddr) {
    eventually(PATIENCE, "new connections are refused", async || TcpStream::connect(address).await.is_err())
        .await;
}

// ── the start ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it_and_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen =
        |listen: String, admin: String| format!("listen = [\"http://{listen}\"]\nadmin = \"{admin}\"\n");

    let (code, said) = Gateway::refuse(&listen(address.to_string(), "127.0.0.1:0".into())).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on http://{address}: the address is in use")), "{said}");
    assert!(said.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{said}");

    let (code, said) = Gateway::refuse(&listen("127.0.0.1:0".into(), address.to_string())).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("admin") && said.contains(&address.to_string()) && said.contains("in use"),
        "{said}"
    );
    assert!(!said.contains("\"listening\""), "nothing was announced: {said}");
}

#[tokio::test]
async fn an_address_of_another_machine_is_an_error_that_says_where_to_look() {
    let (code, said) = Gateway::refuse("listen = [\"http://192.0.2.1:0\"]\nadmin = \"127.0.0.1:0\"\n").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("http://192.0.2.1:0") && said.contains("ip address"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_an_error_with_its_place_and_remedy() {
    let mut certs = Certs::for_names(&["a.test"]);
    certs.add(&["b.test"]);
    let [a, b] = [0, 1].map(|index| certs.files()[index].clone());
    let garbage = a.with_file_name("garbage.pem");
    std::fs::write(&garbage, "no certificate").unwrap();
    let none = a.with_file_name("none.pem");
    let with = |certs: String| {
        format!("listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntls.certs = [{certs}]\n")
    };

    let cases = [
        (format!("{none:?}"), "none.pem cannot be read"),
        (format!("{garbage:?}"), "garbage.pem holds no certificate"),
        (format!("{{ cert = {a:?}, key = {b:?} }}"), "does not belong to the first certificate"),
    ];
    for (written, expected) in cases {
        let (code, said) = Gateway::refuse(&with(written)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected) && said.contains("tidegate.toml:3:"), "{said}");
        assert!(said.contains("tls.certs"), "the line is shown: {said}");
    }
    let (_, said) = Gateway::refuse(&with(format!("{none:?}, {garbage:?}"))).await;
    assert!(said.contains("none.pem") && said.contains("garbage.pem"), "both are told: {said}");
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_every_problem() {
    let config = "lisen = [\"http://127.0.0.1:0\"]\nadmin = \"0.0.0.0:0\"\n\
                  [routes.users]\nupstream = \"usres\"\nrate_limit = \"ten\"\n[upstreams.users]\nservers = []\n";
    let (code, said) = Gateway::refuse(config).await;
    assert_eq!(code, Some(2), "{said}");
    for expected in ["lisen", "listen", "rate_limit", "servers"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (code, said) = Gateway::refuse("[routes.users]\nupstream = \"usres\"\n[upstreams.users]\nservers = [\"127.0.0.1:1\"]\n[routes.other]\nupstream = \"nobody\"\n").await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("usres") && said.contains("nobody"), "{said}");
}

#[tokio::test]
async fn one_line_of_json_says_where_it_listens_and_is_true_at_once() {
    let certs = Certs::for_names(&["a.test"]);
    let top =
        https(&certs).replace("127.0.0.1:0\"]", "127.0.0.1:0\", \"http://127.0.0.1:0\", \"http://[::1]:0\"]");
    let mut gateway = Gateway::start(&format!("{top}[routes.all]\nrespond = {{ body = \"fine\" }}\n")).await;

    let said = gateway.process().output();
    let line = said.lines().find(|line| line.starts_with('{')).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let listening: Vec<_> =
        line["listening"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    assert_eq!(listening.len(), 3);
    for url in &listening {
        let (_, address) = url.split_once("://").unwrap();
        let address: SocketAddr = address.parse().unwrap();
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).await.unwrap();
    }
    assert!(listening[0].starts_with("https://127.0.0.1:") && listening[2].starts_with("http://[::1]:"));
    let admin: SocketAddr = line["admin"].as_str().unwrap().parse().unwrap();
    TcpStream::connect(admin).await.unwrap();
    assert_eq!(gateway.admin_get("/health").await.status, 200);
    gateway.ready().await;
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_a_signal_does_not_wait_for_it() {
    let mut origin = Origin::start("one").await;
    origin.stop().await;
    let certs = Certs::for_names(&["a.test"]);
    let (top, address) = (https(&certs), origin.address());
    let config = format!(
        "{top}[upstreams.u]\nservers = [\"{address}\"]\n\
         health = {{ path = \"/healthz\", interval = \"100ms\" }}\n[routes.all]\nupstream = \"u\"\n"
    );

    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let mut gateway = Gateway::start(&config).await;
        let waiting = gateway.admin_get("/ready").await;
        assert_eq!(waiting.status, 503);
        assert!(waiting.text().contains("upstreams"), "{}", waiting.text());
        gateway.process().signal(signal);
        assert_eq!(gateway.process().ended().await.code(), Some(code));
        let said = gateway.process().output();
        assert!(!said.contains("boot: ready"), "it was not waited for: {said}");
    }
    let mut gateway = Gateway::start(&config).await;
    origin.restart();
    gateway.ready().await;
    assert_eq!(gateway.stop().await.code(), Some(0));
}

// ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longer than any test waits: whoever ends has not waited for it.
const LONG_GRACE: &str = "shutdown_grace = \"10m\"";

#[tokio::test]
async fn requests_in_flight_are_finished_and_nothing_new_is_begun() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/slow", Reply::ok("at last").behind(&gate));
    let mut gateway = before(&origin, &certs, LONG_GRACE).await;
    gateway.ready().await;
    let address = gateway.https();
    let mut idle = Raw::tls(address, "a.test", &certs).await;
    idle.send(GET).await;
    assert_eq!(idle.answer().await.1, b"one answers");

    let mut http1 = Raw::tls(address, "a.test", &certs).await;
    http1.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let http2 = Client::http2(&gateway, &certs);
    let http2 = tokio::spawn(Answer::of(http2.request("GET", "https://a.test/slow")));
    eventually(PATIENCE, "both are with the origin", async || origin.requests("/slow") == 2).await;

    gateway.process().signal(Signal::TERM);
    refuses(address).await;
    assert_eq!(idle.rest().await, b"", "an idle connection ends at once");
    let ready = gateway.admin_get("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("draining"), "{}", ready.text());
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 2.0);
    assert!(gateway.process().runs());

    gate.open();
    let (head, body) = http1.answer().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"at last", "{head}");
    assert!(
        head.to_ascii_lowercase().contains("connection: close"),
        "the client is told to go elsewhere: {head}"
    );
    assert_eq!(http1.rest().await, b"");
    drop(http1);
    let answer = http2.await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "at last"));
    assert_eq!(gateway.process().ended().await.code(), Some(0));
    let lines = gateway.process().output().matches("/slow").count();
    assert_eq!(lines, 2, "their access lines were written");
}

#[tokio::test]
async fn an_upload_and_a_download_in_the_middle_are_finished() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let large = "0123456789".repeat(400_000);
    origin.answer("/down", Reply::ok(large.clone()));
    let mut gateway = before(&origin, &certs, LONG_GRACE).await;
    let address = gateway.https();

    let mut up = Raw::tls(address, "a.test", &certs).await;
    up.send("POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello").await;
    // Over HTTP/2, where the client's window and not the buffers of its system bounds what is under way.
    let down = Client::http2(&gateway, &certs).request("GET", "https://a.test/down").send().await.unwrap();
    assert_eq!(down.status(), 200);
    let in_flight = async || gateway.metric("tidegate_requests_in_flight").await == 2.0;
    eventually(PATIENCE, "both are being answered", in_flight).await;

    gateway.process().signal(Signal::TERM);
    refuses(address).await;
    up.send("world").await;
    assert_eq!(up.answer().await.1, b"one answers");
    drop(up);
    assert!(down.bytes().await.unwrap() == large.as_bytes(), "the download is whole");
    assert_eq!(gateway.process().ended().await.code(), Some(0));
    assert_eq!(origin.seen().iter().find(|seen| seen.target == "/up").unwrap().body, b"helloworld");
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once_whoever_is_connected() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let mut gateway = before(&origin, &certs, LONG_GRACE).await;
    let mut http1 = Raw::tls(gateway.https(), "a.test", &certs).await;
    http1.send(GET).await;
    http1.answer().await;
    let http2 = Client::http2(&gateway, &certs);
    assert_eq!(http2.get("https://a.test/fine").await.status, 200);
    let mut quiet = Raw::tls(gateway.https(), "a.test", &certs).await;
    let mut silent = Raw::tcp(gateway.https()).await;
    eventually(PATIENCE, "all four are in", async || {
        gateway.metric("tidegate_connections_open").await == 4.0
    })
    .await;

    let began = std::time::Instant::now();
    assert_eq!(gateway.stop().await.code(), Some(0));

    assert!(began.elapsed() < Duration::from_millis(1500), "it took {:?}", began.elapsed());
    for client in [&mut http1, &mut quiet, &mut silent] {
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn who_is_not_done_within_the_grace_is_cut_off() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/slow", Reply::ok("never").behind(&Gate::closed()));
    let mut gateway = before(&origin, &certs, "shutdown_grace = \"300ms\"").await;
    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    eventually(PATIENCE, "it is with the origin", async || origin.requests("/slow") == 1).await;

    assert_eq!(gateway.stop().await.code(), Some(0));
    assert_eq!(client.rest().await, b"");
    assert!(gateway.process().output().contains("grace period is over"));
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    for second in [Signal::TERM, Signal::INT] {
        let certs = Certs::for_names(&["a.test"]);
        let origin = Origin::start("one").await;
        origin.answer("/slow", Reply::ok("never").behind(&Gate::closed()));
        let mut gateway = before(&origin, &certs, LONG_GRACE).await;
        let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
        client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually(PATIENCE, "it is with the origin", async || origin.requests("/slow") == 1).await;

        gateway.process().signal(Signal::TERM);
        refuses(gateway.https()).await;
        gateway.process().signal(second);
        gateway.process().ended().await;
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn an_interrupt_ends_it_at_once() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/slow", Reply::ok("never").behind(&Gate::closed()));
    let mut gateway = before(&origin, &certs, LONG_GRACE).await;
    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    eventually(PATIENCE, "it is with the origin", async || origin.requests("/slow") == 1).await;

    gateway.process().signal(Signal::INT);

    assert_eq!(gateway.process().ended().await.code(), Some(130));
    assert_eq!(client.rest().await, b"");
}

// ── only asked ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn check_says_what_run_would_and_starts_nothing() {
    let certs = Certs::for_names(&["a.test"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let check = async || Gateway::run(&["check", "--config", file.to_str().unwrap()]).await;

    let top = https(&certs).replace("127.0.0.1:0\"]", &format!("{}\"]", taken.local_addr().unwrap()));
    std::fs::write(&file, format!("{top}[routes.all]\nrespond = {{ body = \"fine\" }}\n")).unwrap();
    let (code, said) = check().await;
    assert_eq!(code, Some(0), "no address is bound: {said}");
    assert!(said.contains("is fine: 1 route, 0 upstreams"), "{said}");

    std::fs::write(&file, format!("{top}[routes.all]\nupstream = \"nobody\"\nmax_boddy = 1\n")).unwrap();
    let (code, said) = check().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("gateway.toml:6:") && said.contains("max_body"), "{said}");

    std::fs::remove_file(&file).unwrap();
    let (code, said) = check().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("gateway.toml"), "{said}");
}

#[tokio::test]
async fn the_schema_is_json_and_knows_the_keys() {
    let (code, said) = Gateway::run(&["schema"]).await;
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&said).unwrap();
    for key in ["listen", "tls", "routes", "upstreams"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

#[tokio::test]
async fn certs_dev_makes_files_that_only_the_owner_may_read_keys_of() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made/here");
    for _ in 0..2 {
        let (code, said) = Gateway::run(&["certs", "dev", "--dir", made.to_str().unwrap()]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("ca.pem") && said.contains("--cacert"), "{said}");
    }
    for (file, mode) in
        [("ca.key", 0o600), ("localhost.key", 0o600), ("ca.pem", 0o644), ("localhost.pem", 0o644)]
    {
        let found = std::fs::metadata(made.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}: {found:o}");
    }
    std::fs::write(folder.path().join("file"), "").unwrap();
    let (code, said) =
        Gateway::run(&["certs", "dev", "--dir", folder.path().join("file").to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{said}");
}

#[tokio::test]
async fn the_version_is_told_and_wrong_usage_is_an_error() {
    let (code, said) = Gateway::run(&["--version"]).await;
    assert_eq!((code, said.trim()), (Some(0), concat!("tidegate ", env!("CARGO_PKG_VERSION"))));
    let (code, said) = Gateway::run(&["--help"]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("check") && said.contains("schema") && said.contains("certs"), "{said}");
    for wrong in [&["--nonsense"][..], &["serve"], &["certs"], &["check", "extra"], &["--config"]] {
        let (code, said) = Gateway::run(wrong).await;
        assert_eq!(code, Some(2), "{wrong:?}: {said}");
    }
}
