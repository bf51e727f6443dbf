//! The whole: real user-services over one database behind the gateway, under load, while parts of it end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::support::client::Answer;
use crate::support::users::{Database, Service};
use crate::support::{
    Certs, Client, Gate, Gateway, Issuer, Origin, PATIENCE, Raw, Reply, eventually, group, https, must,
};

const USERS: &str = "https://a.test/users";

/// Three user-services over one database, and a gateway in front of them.
struct House {
    services: [Service; 3],
    gateway: Gateway,
    certs: Certs,
    _database: Database,
}

impl House {
    async fn start() -> Self {
        let database = Database::new();
        let start = || Service::start(&database);
        let services = <[Service; 3]>::from(tokio::join!(start(), start(), start()));
        let [one, two, three] = services.each_ref().map(Service::address);
        let certs = Certs::for_names(&["a.test"]);
        let top = https(&certs);
        let gateway = Gateway::start(&format!(
            r#"{top}
[upstreams.users]
servers = ["{one}", "{two}", "{three}"]
health = {{ path = "/readyz", interval = "100ms" }}
outlier_detection = {{ ejection_time = "500ms" }}
retries = {{ attempts = 3, on = ["connect", "reset", "503"] }}

[routes.users]
path = "/users/*"
upstream = "users"
"#
        ))
        .await;
        let house = Self { services, gateway, certs, _database: database };
        house.gateway.ready().await;
        eventually(PATIENCE, "all three are up", async || house.up().await == 3).await;
        house
    }

    /// How many servers may be chosen.
    async fn up(&self) -> u64 {
        self.gateway.count("tidegate_upstream_server_up").await
    }

    /// The name by which the first service says that it served.
    fn first(&self) -> String {
        format!("user-service@{}", self.services[0].address())
    }

    async fn create(&self, client: &Client, name: &str) -> Answer {
        let user = json!({ "email": format!("{name}@example.com"), "name": name });
        client.send(client.request("POST", USERS).json(&user)).await
    }
}

#[tokio::test]
async fn users_are_made_read_listed_changed_and_removed() {
    let house = House::start().await;
    let client = Client::http2(&house.gateway, &house.certs);

    let made = house.create(&client, "ada").await;
    assert_eq!((made.status, made.version), (201, reqwest::Version::HTTP_2), "{}", made.text());
    let ada = format!("https://a.test{}", made.field("location").unwrap());
    // Whoever is asked has it: the database is one.
    for _ in 0..6 {
        let read = client.get(&ada).await;
        assert_eq!((read.status, read.json()), (200, made.json()));
        assert_eq!(read.field("etag"), Some("\"1\""));
    }

    let twice = house.create(&client, "ada").await;
    assert_eq!((twice.status, twice.field("content-type")), (409, Some("application/problem+json")));

    let change = |etag| {
        let grace = json!({ "email": "grace@example.com", "name": "Grace" });
        client.request("PUT", &ada).header("if-match", etag).json(&grace)
    };
    let changed = client.send(change("\"1\"")).await;
    assert_eq!((changed.status, changed.field("etag")), (200, Some("\"2\"")));
    assert_eq!(client.send(change("\"1\"")).await.status, 412);
    let known = client.send(client.request("GET", &ada).header("if-none-match", "\"2\"")).await;
    assert_eq!((known.status, known.body.len()), (304, 0));

    let removed = client.send(client.request("DELETE", &ada).header("if-match", "\"2\"")).await;
    assert_eq!((removed.status, removed.body.len()), (204, 0));
    assert_eq!(client.get(&ada).await.status, 404);
    assert_eq!(client.get("https://a.test/elsewhere").await.json()["reason"], "route-not-found");
}

#[tokio::test]
async fn pages_lead_to_each_other_and_all_servers_take_part() {
    let house = House::start().await;
    let client = Client::http2(&house.gateway, &house.certs);
    let names: BTreeSet<String> = (0..25).map(|number| format!("user{number}")).collect();
    for name in &names {
        assert_eq!(house.create(&client, name).await.status, 201);
    }

    let (mut listed, mut pages, mut next) = (BTreeSet::new(), 0, Some("/users?limit=10".to_owned()));
    while let Some(page) = next {
        let answer = client.get(&format!("https://a.test{page}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let users = answer.json()["users"].as_array().unwrap().clone();
        listed.extend(users.iter().map(|user| user["name"].as_str().unwrap().to_owned()));
        pages += 1;
        next = answer.field("link").map(|link| {
            let (target, relation) = link.split_once('>').unwrap();
            assert!(relation.contains("rel=\"next\""), "{link}");
            target.trim_start_matches('<').to_owned()
        });
    }
    assert_eq!((listed, pages), (names, 3));

    let mut served = BTreeSet::new();
    eventually(PATIENCE, "all three have served", async || {
        served.insert(client.get(USERS).await.field("x-served-by").unwrap().to_owned());
        served.len() == 3
    })
    .await;
}

/// Clients that ask at a steady pace until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

/// One request of a load, and what became of it.
struct Asked {
    began: Instant,
    outcome: Result<Answer, reqwest::Error>,
}

impl Asked {
    fn is_ok(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|answer| answer.status == 200)
    }
}

impl Load {
    /// Some clients over HTTP/1.1 and as many over HTTP/2, each asking every 20 ms, or as soon as it has its answer.
    fn start(
        gateway: &Gateway,
        certs: &Certs,
        of_each: usize,
        request: impl Fn(&Client) -> reqwest::RequestBuilder + Clone + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kinds = (0..of_each).flat_map(|_| [Client::http1(gateway, certs), Client::http2(gateway, certs)]);
        let clients = kinds
            .zip(0..)
            .map(|(client, number)| {
                let (stop, request) = (Arc::clone(&stop), request.clone());
                // Not all in step.
                let first = tokio::time::Instant::now() + Duration::from_millis(13) * number;
                tokio::spawn(async move {
                    let mut pace = interval_at(first, Duration::from_millis(20));
                    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    let mut asked = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        pace.tick().await;
                        let began = Instant::now();
                        let outcome = Answer::try_of(request(&client)).await;
                        asked.push(Asked { began, outcome });
                    }
                    asked
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// Ends it; every request, and what became of it.
    async fn end(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(must("the load ends", client).await.unwrap());
        }
        all
    }
}

/// Every request was answered with 200; by whom, how often.
fn assert_nothing_failed(asked: &[Asked]) -> BTreeMap<&str, usize> {
    let failed: Vec<_> = asked.iter().filter(|asked| !asked.is_ok()).map(|asked| &asked.outcome).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), asked.len());
    let mut served = BTreeMap::new();
    for asked in asked {
        let answer = asked.outcome.as_ref().unwrap();
        *served.entry(answer.field("x-served-by").unwrap()).or_default() += 1;
    }
    served
}

/// One of three ends under load and comes back at its address. Nobody notices.
async fn one_ends_and_comes_back(end: impl AsyncFnOnce(&mut Service)) {
    let mut house = House::start().await;
    let client = Client::http2(&house.gateway, &house.certs);
    let made = house.create(&client, "ada").await;
    let ada = format!("https://a.test{}", made.field("location").unwrap());
    let first = house.services[0].address().to_string();
    let reads = Load::start(&house.gateway, &house.certs, 3, move |client| client.request("GET", &ada));
    // Idempotent, though it writes: a lost answer may be asked for again.
    let ada = format!("https://a.test{}", made.field("location").unwrap());
    let writes = Load::start(&house.gateway, &house.certs, 1, move |client| {
        client.request("PUT", &ada).json(&json!({ "email": "ada@example.com", "name": "Ada" }))
    });

    let answered = format!("tidegate_upstream_requests_total{{server=\"{first}\",outcome=\"ok\"}}");
    eventually(PATIENCE, "it takes part", async || house.gateway.count(&answered).await > 20).await;
    end(&mut house.services[0]).await;
    let is_out = async || house.gateway.server(&first).await["state"] == "down";
    eventually(PATIENCE, "it is taken out", is_out).await;
    let before = house.gateway.count(&answered).await;

    house.services[0].restart().await;
    eventually(PATIENCE, "it is back", async || house.up().await == 3).await;
    let is_asked = async || house.gateway.count(&answered).await > before + 20;
    eventually(PATIENCE, "it takes part again", is_asked).await;

    let (reads, writes) = (reads.end().await, writes.end().await);
    let served = assert_nothing_failed(&reads);
    assert!(served.len() == 3 && served[&*house.first()] > 20, "{served:?}");
    assert_nothing_failed(&writes);
    assert_eq!(house.gateway.count("tidegate_refusals_total").await, 0);
}

#[tokio::test]
async fn a_server_killed_under_load_costs_no_idempotent_request() {
    one_ends_and_comes_back(async |service: &mut Service| service.kill()).await;
}

#[tokio::test]
async fn a_server_stopped_under_load_costs_no_idempotent_request() {
    one_ends_and_comes_back(async |service: &mut Service| {
        assert!(service.stop().await.success());
    })
    .await;
}

/// A gateway before one origin.
async fn before(origin: &Origin, certs: &Certs) -> Gateway {
    Gateway::start(&group(certs, &[origin.address().to_string()], "")).await
}

#[tokio::test]
async fn a_drain_under_load_loses_no_request() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    // Longer than the pace, so that every client has a request on its way at any time.
    origin.answer("/", Reply::ok("done").after(Duration::from_millis(250)));
    let mut gateway = before(&origin, &certs).await;
    let load = Load::start(&gateway, &certs, 10, |client| client.request("GET", "https://a.test/"));
    eventually(PATIENCE, "the load is on", async || origin.requests("/") > 60).await;

    let told = Instant::now();
    let status = gateway.stop().await;

    assert!(status.success());
    let asked = load.end().await;
    // What was sent as the signal was may have met a closed door. Nobody was sent away once inside.
    let (inside, late): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|asked| asked.began + Duration::from_millis(100) < told);
    let in_flight = inside.iter().filter(|asked| asked.began + Duration::from_millis(250) > told).count();
    assert!(inside.len() >= 40 && in_flight > 0, "{} requests, {in_flight} at the signal", inside.len());
    let lost: Vec<_> = inside.iter().filter(|asked| !asked.is_ok()).map(|asked| &asked.outcome).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let wrong = late.iter().filter(|asked| asked.outcome.is_ok() && !asked.is_ok()).count();
    assert_eq!(wrong, 0, "whoever was answered at all was answered well");
}

#[tokio::test]
async fn a_drain_waits_for_what_is_in_flight_and_lets_nobody_new_in() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/slow", Reply::ok("x".repeat(300_000)).behind(&gate));
    let mut gateway = before(&origin, &certs).await;
    let clients = (0..4).flat_map(|_| [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)]);
    let waiting: Vec<_> =
        clients.map(|client| tokio::spawn(async move { client.get("https://a.test/slow").await })).collect();
    let mut upload = Raw::tls(gateway.https(), "a.test", &certs).await;
    upload.send("PUT /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nfives").await;
    let is_there =
        async || origin.requests("/slow") == 8 && gateway.count("tidegate_upstream_in_flight").await == 9;
    eventually(PATIENCE, "all are there", is_there).await;
    let _idle = Raw::tls(gateway.https(), "a.test", &certs).await;

    gateway.process().signal(Signal::TERM);
    let address = gateway.https();
    eventually(PATIENCE, "nobody is let in", async || TcpStream::connect(address).await.is_err()).await;
    let ready = gateway.admin_get("/ready").await;
    assert_eq!((ready.status, &ready.json()["missing"]), (503, &json!(["draining"])));
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));

    upload.send("fives").await;
    let (head, body) = upload.answer().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, b"one answers");
    assert!(gateway.process().runs());
    gate.open();
    for answer in waiting {
        let answer = must("an answer", answer).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 300_000));
    }
    assert!(gateway.process().ended().await.success());
}

#[tokio::test]
async fn a_drain_waits_for_an_answer_that_takes_its_time() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    // Longer than connections without a request are waited for.
    origin.answer("/", Reply::ok("worth it").after(Duration::from_secs(3)));
    let mut gateway = before(&origin, &certs).await;
    let client = Client::http2(&gateway, &certs);
    let waiting = tokio::spawn(async move { client.get("https://a.test/").await });
    eventually(PATIENCE, "it is there", async || origin.requests("/") == 1).await;

    assert!(gateway.stop().await.success());

    assert_eq!(waiting.await.unwrap().text(), "worth it");
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_cut_off() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/", Reply::ok("never").behind(&gate));
    let config = group(&certs, &[origin.address().to_string()], "");
    let mut gateway = Gateway::start(&format!("shutdown_grace = \"300ms\"\n{config}")).await;
    let client = Client::http2(&gateway, &certs);
    let stuck = tokio::spawn(async move { Answer::try_of(client.request("GET", "https://a.test/")).await });
    eventually(PATIENCE, "it is there", async || origin.requests("/") == 1).await;

    assert!(gateway.stop().await.success());

    assert!(stuck.await.unwrap().is_err());
}

#[tokio::test]
async fn an_interrupt_ends_it_now() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/", Reply::ok("never").behind(&gate));
    let mut gateway = before(&origin, &certs).await;
    let client = Client::http1(&gateway, &certs);
    let stuck = tokio::spawn(async move { Answer::try_of(client.request("GET", "https://a.test/")).await });
    eventually(PATIENCE, "it is there", async || origin.requests("/") == 1).await;

    gateway.process().signal(Signal::INT);

    assert_eq!(gateway.process().ended().await.code(), Some(130));
    assert!(stuck.await.unwrap().is_err());
}

/// What one is answered who says what only the gateway may say.
async fn poses(gateway: &Gateway, certs: &Certs) -> u16 {
    let client = Client::http2(gateway, certs);
    let posed = client.request("GET", "https://a.test/events").header("x-scopes", "users:admin");
    client.send(posed).await.status
}

#[tokio::test]
async fn the_service_believes_the_gateway_and_nobody_who_poses_as_it() {
    const SECRET: &str = "a-secret-of-the-gateway-0123456789abcdef";
    let database = Database::new();
    let service = Service::closed(&database, SECRET).await;
    let issuer = Issuer::start().await;
    let certs = Certs::for_names(&["a.test"]);
    let config = format!(
        r#"{}
{}
[upstreams.users]
servers = ["{}"]
[defaults.request_headers]
set = {{ x-gateway-secret = {{ env = "PROOF" }} }}
[routes.users]
path = "/users/*"
upstream = "users"
cache = "1m"
auth = "idp"
[routes.all]
upstream = "users"
"#,
        https(&certs),
        issuer.provider("headers = { x-user-id = \"sub\", x-scopes = \"scope\" }"),
        service.address()
    );
    let gateway = Gateway::start_where(&config, &[("PROOF", SECRET)]).await;
    let client = Client::http2(&gateway, &certs);
    let ask = |method: &str, path: &str, scope: &str| {
        let token = issuer.token(json!({ "scope": scope }));
        let request = client.request(method, &format!("https://a.test{path}"));
        request.header("authorization", format!("Bearer {token}")).header("x-scopes", "users:admin")
    };
    let ada = json!({ "email": "ada@example.com", "name": "Ada" });
    let made = client.send(ask("POST", "/users", "openid users:write").json(&ada)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let path = made.field("location").unwrap();
    assert_eq!(client.send(ask("GET", path, "users:read")).await.json(), made.json());
    // What the token does not say, nobody may say.
    let denied = client.send(ask("POST", "/users", "users:read").json(&ada)).await;
    assert_eq!((denied.status, denied.json()["code"].as_str()), (403, Some("insufficient-scope")));
    let trail = client.send(ask("GET", &format!("{path}/audit"), "users:admin")).await;
    assert_eq!(trail.json()["entries"][0]["by"], "caller:ada");
    let nobody = client.request("GET", "https://a.test/events").header("x-scopes", "users:admin");
    assert_eq!(client.send(nobody).await.status, 401);
    // Nor where the gateway has nobody to say it.
    let bare =
        config.replace(&issuer.provider("headers = { x-user-id = \"sub\", x-scopes = \"scope\" }"), "");
    let bare = bare.replace("auth = \"idp\"\n", "");
    let alone = Gateway::start_where(&bare, &[("PROOF", SECRET)]).await;
    assert_eq!(poses(&alone, &certs).await, 401);

    // By its name, where it is written out.
    let written = bare.replace("{ env = \"PROOF\" }", &format!("\"{SECRET}\""));
    let written = Gateway::start(&written).await;
    assert_eq!(poses(&written, &certs).await, 401);

    // The secret stays where it is.
    let effective = gateway.admin_get("/config").await;
    let shown = effective.text();
    assert!(shown.contains("PROOF") && !shown.contains(SECRET), "{shown}");
    assert!(!gateway.wrote().contains(SECRET));
    let (code, told) = Gateway::refuse(&config).await;
    assert_eq!(code, Some(2));
    assert!(told.contains("the environment has no `PROOF`"), "{told}");
    let (code, told) =
        Gateway::refuse(&config.replace("[defaults.request_headers]", "[defaults.response_headers]")).await;
    assert_eq!(code, Some(2));
    assert!(told.contains("`x-gateway-secret` would tell a secret"), "{told}");
}
