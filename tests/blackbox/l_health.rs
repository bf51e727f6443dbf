//! Which servers may be chosen: what their checks say, and what their answers say.

use crate::support::{Certs, Client, Gate, Gateway, Origin, PATIENCE, Reply, Wire, eventually, group, https};

const URL: &str = "https://a.test/";

/// Checks that come fast. Three failures take a server out, two passes bring it back.
const HEALTH: &str = "health = { path = \"/healthz\", interval = \"100ms\" }";

fn address(origin: &Origin) -> String {
    origin.address().to_string()
}

/// Whether metrics and `/upstreams` agree that the server may be chosen.
async fn is_up(gateway: &Gateway, server: &str) -> bool {
    let shown = gateway.server(server).await["state"] == "up";
    let counted = gateway.count(&format!("tidegate_upstream_server_up{{server=\"{server}\"}}")).await == 1;
    shown && counted
}

async fn is_out(gateway: &Gateway, server: &str, state: &str) -> bool {
    let shown = gateway.server(server).await["state"] == state;
    let counted = gateway.count(&format!("tidegate_upstream_server_up{{server=\"{server}\"}}")).await == 0;
    shown && counted
}

/// Asks so often over HTTP/2; status and server of each answer.
async fn ask(client: &Client, times: usize) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for _ in 0..times {
        let answer = client.get(URL).await;
        answers.push((answer.status, answer.field("served-by").unwrap_or("nobody").to_owned()));
    }
    answers
}

#[tokio::test]
async fn a_server_is_down_until_its_first_pass_and_readiness_waits_for_it() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/healthz", Reply::ok("fine").behind(&gate));
    let settings = "health = { path = \"/healthz\", interval = \"100ms\", timeout = \"30s\" }";
    let gateway = Gateway::start(&group(&certs, &[address(&origin)], settings)).await;
    let client = Client::http2(&gateway, &certs);

    let ready = gateway.admin_get("/ready").await;
    assert_eq!((ready.status, &ready.json()["missing"]), (503, &serde_json::json!(["upstreams"])));
    let refused = client.get(URL).await;
    assert_eq!((refused.status, &refused.json()["reason"]), (503, &"no-server".into()));
    assert!(refused.field("retry-after").is_some());
    assert_eq!(origin.requests("/"), 0);
    let server = gateway.server(&address(&origin)).await;
    assert_eq!(server["state"], "down");
    assert_eq!(server["reason"], "no health check has passed yet");
    assert!(is_out(&gateway, &address(&origin), "down").await);

    gate.open();
    // Readiness waits for a first pass, but for some seconds at most: where all this took longer, it does not tell.
    eventually(PATIENCE, "it is up", async || is_up(&gateway, &address(&origin)).await).await;
    gateway.ready().await;
    assert_eq!(ask(&client, 1).await, [(200, "one".to_owned())]);
}

#[tokio::test]
async fn a_group_that_is_down_does_not_keep_the_gateway_from_getting_ready() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/healthz", Reply::new(503, "not me"));
    let gateway = Gateway::start(&group(&certs, &[address(&origin)], HEALTH)).await;

    gateway.ready().await;

    assert_eq!(Client::http1(&gateway, &certs).get(URL).await.status, 503);
    let server = gateway.server(&address(&origin)).await;
    assert_eq!((&server["state"], &server["reason"]), (&"down".into(), &"answered 503".into()));
}

#[tokio::test]
async fn failing_checks_take_a_server_out_and_passing_ones_bring_it_back() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let gateway = Gateway::start(&group(&certs, &[address(&one), address(&two)], HEALTH)).await;
    gateway.ready().await;
    let client = Client::http2(&gateway, &certs);
    let both_up = async || is_up(&gateway, &address(&one)).await && is_up(&gateway, &address(&two)).await;
    eventually(PATIENCE, "both are up", both_up).await;

    one.answer("/healthz", Reply::new(500, "ill"));
    eventually(PATIENCE, "it is out", async || is_out(&gateway, &address(&one), "down").await).await;
    assert_eq!(gateway.server(&address(&one)).await["reason"], "answered 500");
    let served = one.requests("/");
    assert_eq!(ask(&client, 10).await, vec![(200, "two".to_owned()); 10]);
    assert_eq!(one.requests("/"), served);

    one.answer("/healthz", Reply::new(204, ""));
    eventually(PATIENCE, "it is back", async || is_up(&gateway, &address(&one)).await).await;
    let is_asked = async || ask(&client, 5).await.contains(&(200, "one".to_owned()));
    eventually(PATIENCE, "it is asked again", is_asked).await;
}

#[tokio::test]
async fn one_failed_check_is_not_enough_and_one_pass_is_not_either() {
    let certs = Certs::for_names(&["a.test"]);
    // One failure between passes, three in a row, one pass between failures, and passes from then on.
    let checks = Wire::start(|number, mut line| async move {
        let passes = !matches!(number, 2 | 5..=7 | 9..=11);
        line.request().await;
        let status = if passes { "204 Fine" } else { "500 Ill" };
        line.say(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
    })
    .await;
    let server = checks.address().to_string();
    let mut gateway = Gateway::start(&group(&certs, &[server], HEALTH)).await;

    // Every change is an event, so none can pass between two looks.
    eventually(PATIENCE, "fifteen checks", async || checks.connections() >= 15).await;
    let said = gateway.process().output();
    let events = |what: &str| said.matches(what).count();
    assert_eq!((events("server is up"), events("server is down")), (2, 1), "{said}");
}

#[tokio::test]
async fn without_checks_a_server_counts_as_up() {
    let certs = Certs::for_names(&["a.test"]);
    let mut origin = Origin::start("one").await;
    origin.stop().await;
    let gateway = Gateway::start(&group(&certs, &[address(&origin)], "health = false")).await;
    gateway.ready().await;

    assert!(is_up(&gateway, &address(&origin)).await);
    let answer = Client::http2(&gateway, &certs).get(URL).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (502, &"upstream-unreachable".into()));

    origin.restart();
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.status, 200);
}

#[tokio::test]
async fn a_check_asks_under_the_configured_host_and_is_no_request_of_a_client() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let settings = "health = { path = \"/healthz\", interval = \"100ms\", host = \"users.internal\" }";
    let gateway = Gateway::start(&group(&certs, &[address(&origin)], settings)).await;
    gateway.ready().await;

    let check = &origin.seen()[0];
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/healthz"));
    assert_eq!(check.field("host"), Some("users.internal"));
    assert_eq!(gateway.count("tidegate_requests_total").await, 0);
    assert_eq!(gateway.count("tidegate_upstream_requests_total").await, 0);
}

/// Ejection after three failures, for so long.
fn ejection(time: &str) -> String {
    format!(
        "balance = \"round_robin\"\n\
         retries = {{ attempts = 1 }}\n\
         outlier_detection = {{ consecutive_errors = 3, ejection_time = \"{time}\" }}"
    )
}

#[tokio::test]
async fn a_server_whose_answers_fail_is_ejected_and_comes_back() {
    let certs = Certs::for_names(&["a.test"]);
    let (ill, well) = (Origin::start("ill").await, Origin::start("well").await);
    ill.answer("/", Reply::new(503, "ill"));
    let gateway = Gateway::start(&group(&certs, &[address(&ill), address(&well)], &ejection("2s"))).await;
    let client = Client::http2(&gateway, &certs);

    // In turn: three of the ill one, three of the well one, and then the well one alone.
    let statuses: Vec<u16> = ask(&client, 6).await.into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses, [503, 200, 503, 200, 503, 200]);
    let server = gateway.server(&address(&ill)).await;
    assert_eq!((&server["state"], &server["ejections"]), (&"ejected".into(), &1.into()), "{server}");
    assert!(is_out(&gateway, &address(&ill), "ejected").await);
    assert!(is_up(&gateway, &address(&well)).await);
    let ejections = format!("tidegate_upstream_ejections_total{{server=\"{}\"}}", address(&ill));
    assert_eq!(gateway.count(&ejections).await, 1);

    ill.answer("/", Reply::ok("well again"));
    let is_back = async || is_up(&gateway, &address(&ill)).await;
    eventually(PATIENCE, "the ejection is over", is_back).await;
    assert_eq!(ill.requests("/"), 3, "it was asked while it was ejected");
    assert!(ask(&client, 4).await.contains(&(200, "ill".to_owned())));
}

#[tokio::test]
async fn a_server_that_resets_is_ejected() {
    let certs = Certs::for_names(&["a.test"]);
    let (ill, well) = (Origin::start("ill").await, Origin::start("well").await);
    ill.answer("/", Reply::ok("never seen").cut_after(0));
    let gateway = Gateway::start(&group(&certs, &[address(&ill), address(&well)], &ejection("1m"))).await;
    let client = Client::http2(&gateway, &certs);

    let statuses: Vec<u16> = ask(&client, 6).await.into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses, [502, 200, 502, 200, 502, 200]);
    assert_eq!(ask(&client, 6).await, vec![(200, "well".to_owned()); 6]);
}

#[tokio::test]
async fn a_server_whose_answers_break_off_after_their_heads_is_ejected() {
    let certs = Certs::for_names(&["a.test"]);
    let (ill, well) = (Origin::start("ill").await, Origin::start("well").await);
    ill.answer("/", Reply::ok("x".repeat(2000)).cut_after(1000));
    let gateway = Gateway::start(&group(&certs, &[address(&ill), address(&well)], &ejection("1m"))).await;
    let client = Client::http2(&gateway, &certs);

    let is_ejected = async || {
        // What came of the answer is not asked here.
        let _ = crate::support::client::Answer::try_of(client.request("GET", URL)).await;
        is_out(&gateway, &address(&ill), "ejected").await
    };
    eventually(PATIENCE, "it is ejected", is_ejected).await;

    assert_eq!(ask(&client, 4).await, vec![(200, "well".to_owned()); 4]);
    let errors =
        format!("tidegate_upstream_requests_total{{server=\"{}\",outcome=\"error\"}}", address(&ill));
    assert_eq!(gateway.count(&errors).await, 3);
}

#[tokio::test]
async fn answers_that_are_the_servers_word_do_not_eject_it() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    one.answer("/", Reply::new(500, "a bug"));
    two.answer("/", Reply::new(404, "nothing here"));
    let gateway = Gateway::start(&group(&certs, &[address(&one), address(&two)], &ejection("1m"))).await;

    ask(&Client::http2(&gateway, &certs), 12).await;

    assert!(is_up(&gateway, &address(&one)).await && is_up(&gateway, &address(&two)).await);
    let answered = "tidegate_upstream_requests_total{outcome=\"ok\"}";
    eventually(PATIENCE, "all are counted", async || gateway.count(answered).await == 12).await;
}

#[tokio::test]
async fn the_last_server_is_never_ejected() {
    let certs = Certs::for_names(&["a.test"]);
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    for origin in [&one, &two] {
        origin.answer("/", Reply::new(503, "ill"));
    }
    let gateway = Gateway::start(&group(&certs, &[address(&one), address(&two)], &ejection("1m"))).await;

    let answers = ask(&Client::http2(&gateway, &certs), 20).await;

    // Every answer is a server's own; none says that there is nobody to ask.
    assert!(answers.iter().all(|(status, name)| *status == 503 && name != "nobody"), "{answers:?}");
    assert_eq!(gateway.count("tidegate_upstream_ejections_total").await, 1);
    assert_eq!(gateway.count("tidegate_upstream_server_up").await, 1);
}

#[tokio::test]
async fn a_server_alone_is_never_ejected() {
    let certs = Certs::for_names(&["a.test"]);
    let one = Origin::start("one").await;
    one.answer("/", Reply::new(503, "ill"));
    // An address on a route: no checks, ejection by default.
    let (top, address) = (https(&certs), address(&one));
    let config = format!("{top}\n[routes.all]\nupstream = \"{address}\"\n");
    let gateway = Gateway::start(&config).await;

    let answers = ask(&Client::http2(&gateway, &certs), 12).await;

    assert_eq!(answers, vec![(503, "one".to_owned()); 12]);
}
