//! Plays transcripts: files of scripted exchanges between a client, the gateway and an origin.
//!
//! `tests/exchanges/README.md` says how a transcript reads. All exchanges of a file are played at the same time,
//! each under a path of its own, through one gateway with one route for each of the settings that they ask for.

mod check;
mod client;
mod origin;
mod play;
mod script;
mod words;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use script::Exchange;
use tokio::task::JoinSet;

use super::{Certs, Client, Gateway, https};

/// The version of HTTP that the client speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// The transcripts of a file, by its name without the ending; panics where it cannot be read.
pub(crate) fn read(name: &str) -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/exchanges/{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}.txt: {error}"));
    script::parse(name, &text).unwrap_or_else(|problem| panic!("{problem}"))
}

/// The names of all files of transcripts.
pub(crate) fn names() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| Some(name.to_str()?.strip_suffix(".txt")?.to_owned())).collect()
}

/// Plays every exchange of a file; panics with the transcripts that went another way.
pub(crate) async fn play(name: &str, speaks: Speaks) {
    let exchanges = read(name);
    let stage = Arc::new(Stage::set(&exchanges, speaks).await);
    let all = exchanges.len();
    let mut playing = JoinSet::new();
    for (at, exchange) in exchanges.into_iter().enumerate() {
        let stage = Arc::clone(&stage);
        playing.spawn(async move { stage.play(at, &exchange).await });
    }
    let played = playing.join_all().await;
    assert_eq!(played.len(), all, "every exchange is played");

    let failures: Vec<String> = played.into_iter().flatten().collect();
    let failed = failures.len();
    let count = format!("{name}.txt over {speaks:?}: {all} exchanges played, {failed} went another way");
    println!("{count}");
    assert!(failures.is_empty(), "\n\n{}\n{count}", failures.join("\n"));
    let output = stage.gateway.output();
    assert!(!output.contains("panicked"), "the gateway panicked:\n{output}");
}

/// The gateway, the origins behind it and the client before it.
struct Stage {
    gateway: Gateway,
    certs: Certs,
    client: Client,
    speaks: Speaks,
    places: Vec<Place>,
}

/// Where one exchange is played.
struct Place {
    /// What its paths begin with.
    base: String,
    /// What the configuration says against its route; nothing where it is taken.
    refused: Option<String>,
    /// The part of the origin that it is played with.
    role: Arc<origin::Role>,
    /// An origin of its own, where it stops listening.
    own: Option<origin::Host>,
    /// The origin's address.
    address: std::net::SocketAddr,
}

impl Stage {
    async fn set(exchanges: &[Exchange], speaks: Speaks) -> Self {
        let certs = Certs::for_names(&["a.test", "b.test"]);
        let shared = origin::Host::start();
        let mut places = Vec::new();
        for (at, exchange) in exchanges.iter().enumerate() {
            let base = format!("/{at}");
            let own = exchange.refuses().then(origin::Host::start_closing);
            let host = own.as_ref().unwrap_or(&shared);
            let (role, address) = (host.role(&base), host.address());
            places.push(Place { base, refused: None, role, own, address });
        }
        // The origin lives as long as somebody holds one of its roles; its listener is kept by the first place.
        let keeper = Place {
            base: String::new(),
            refused: None,
            role: shared.role(""),
            address: shared.address(),
            own: Some(shared),
        };
        let routes: Vec<String> =
            places.iter().zip(exchanges).map(|(place, exchange)| route(place, exchange)).collect();
        let top = format!("{}log = {{ access = \"off\", level = \"warn\" }}\n", https(&certs));
        for (place, refused) in places.iter_mut().zip(refused(&top, &routes).await) {
            place.refused = refused;
        }
        let taken = places.iter().zip(&routes).filter(|(place, _)| place.refused.is_none());
        let taken: String = taken.map(|(_, route)| route.as_str()).collect();
        let gateway = Gateway::start(&format!("{top}{taken}")).await;
        let client = match speaks {
            Speaks::Http1 => Client::http1(&gateway, &certs),
            Speaks::Http2 => Client::http2(&gateway, &certs),
        };
        places.push(keeper);
        Self { gateway, certs, client, speaks, places }
    }
}

/// The route of one exchange, and its upstream.
fn route(place: &Place, exchange: &Exchange) -> String {
    let (name, address) = (place.base.trim_start_matches('/'), place.address);
    let settings = exchange.settings();
    // Failures are the subject here, so that they neither eject the origin nor are tried again.
    format!(
        "[upstreams.u{name}]\nservers = [\"{address}\"]\noutlier_detection = false\nretries.attempts = 1\n\
         [routes.r{name}]\npath = \"{}/*\"\nupstream = \"u{name}\"\n{settings}\n",
        place.base
    )
}

/// For each route, what the configuration says against it; asked one by one only where not all are taken.
async fn refused(top: &str, routes: &[String]) -> Vec<Option<String>> {
    if check(&format!("{top}{}", routes.concat())).await.is_none() {
        return vec![None; routes.len()];
    }
    let mut refused = Vec::new();
    for route in routes {
        refused.push(check(&format!("{top}{route}")).await);
    }
    refused
}

/// What `check` says against a configuration.
async fn check(config: &str) -> Option<String> {
    let folder = tempfile::TempDir::with_prefix("tidegate-test").unwrap();
    let file = folder.path().join("tidegate.toml");
    std::fs::write(&file, config).unwrap();
    let (code, words) = Gateway::run(&["check", "--config", file.to_str().unwrap()]).await;
    (code != Some(0)).then_some(words)
}
