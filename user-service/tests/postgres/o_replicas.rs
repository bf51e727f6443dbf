//! A primary and two replicas that follow it: whoever answers, readers see what they wrote.

use reqwest::Response;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tokio::process::Command;

use crate::database::Home;
use crate::server::Server;
use crate::stream::Reader;
use crate::support::{Service, eventually, header, problem, program, user};

/// Real servers, and a database on them.
struct Fleet {
    home: Home,
    primary: Server,
    replicas: [Server; 2],
}

impl Fleet {
    /// With these settings of the replicas besides the usual ones.
    async fn start(settings: &str) -> Self {
        let primary = Server::start("wal_keep_size = 64MB\n");
        let replicas = [primary.replica(settings), primary.replica(settings)];
        Self { home: Home::on(&primary).await, primary, replicas }
    }

    /// A service over all of them, with these keys besides, once both replicas are asked.
    async fn service(&self, config: &str) -> Service {
        let urls = self.replicas.each_ref().map(|replica| self.home.url_on(replica));
        let service = Service::start(&self.home, &format!("replicas = {urls:?}\n{config}")).await;
        eventually("all servers are up", || async { states(&service).await == ["up"; 3] }).await;
        service
    }

    /// Lets the replicas replay nothing, or go on.
    async fn replay(&self, go_on: bool) {
        for replica in &self.replicas {
            let mut connection = PgConnection::connect(&replica.url("postgres")).await.unwrap();
            let order = if go_on { "SELECT pg_wal_replay_resume()" } else { "SELECT pg_wal_replay_pause()" };
            connection.execute(order).await.unwrap();
            // A pause is asked for, and comes about once the record at hand is replayed.
            eventually("the pause", || async {
                let mut connection = PgConnection::connect(&replica.url("postgres")).await.unwrap();
                let state: String = sqlx::query_scalar("SELECT pg_get_wal_replay_pause_state()")
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
                go_on || state == "paused"
            })
            .await;
        }
    }
}

/// How the service finds its servers, the primary first.
async fn states(service: &Service) -> Vec<String> {
    let answer = service.get("/readyz").send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    let servers = body["servers"].as_array().cloned().unwrap_or_default();
    servers.iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

/// What it has may be on a way of its own, as what a primary of before has.
#[tokio::test]
async fn a_replica_that_is_told_nothing_by_a_primary_that_is_up_answers_nobody() {
    let fleet = Fleet::start("").await;
    let service = fleet.service("").await;
    for order in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
        let mut connection = PgConnection::connect(&fleet.replicas[0].url("postgres")).await.unwrap();
        connection.execute(order).await.unwrap();
    }
    eventually("it is not asked", || async { states(&service).await == ["up", "lagging", "up"] }).await;
    // Where there is nobody else, what it has is what there is.
    fleet.primary.crash();
    eventually("it is asked", || async { states(&service).await == ["away", "up", "up"] }).await;
}

/// How many reads the replicas have answered.
async fn replica_reads(service: &Service) -> u64 {
    let mut sum = 0;
    for number in 1..=2 {
        let name = format!("user_service_database_reads_total{{server=\"replica-{number}\"}}");
        sum += service.find_metric(&name).await.unwrap_or(0);
    }
    sum
}

async fn read(service: &Service, path: &str, token: Option<&str>) -> Response {
    let request = service.get(path);
    let request = match token {
        Some(token) => request.header("last-seen", token),
        None => request,
    };
    request.send().await.unwrap()
}

async fn name(answer: Response) -> String {
    assert_eq!(answer.status(), 200);
    answer.json::<Value>().await.unwrap()["name"].as_str().unwrap().to_owned()
}

/// Renames a user; gives the token of that.
async fn rename(service: &Service, path: &str, name: &str) -> String {
    let answer = service.patch(path, &json!({ "name": name })).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    header(&answer, "last-seen").to_owned()
}

#[tokio::test]
async fn who_brings_a_token_sees_the_write_and_others_spare_the_primary() {
    let fleet = Fleet::start("").await;
    let (one, other) = (fleet.service("max_lag = \"1h\"").await, fleet.service("max_lag = \"1h\"").await);
    let created = one.post(&user("ada")).send().await.unwrap();
    let path = header(&created, "location").to_owned();
    let token = header(&created, "last-seen").to_owned();
    eventually("a replica answers who has seen the creation", || async {
        let before = replica_reads(&other).await;
        assert_eq!(name(read(&other, &path, Some(&token)).await).await, "ada");
        replica_reads(&other).await > before
    })
    .await;

    fleet.replay(false).await;
    let token = rename(&one, &path, "Ada King").await;
    for service in [&one, &other] {
        let before = replica_reads(service).await;
        assert_eq!(name(read(service, &path, Some(&token)).await).await, "Ada King");
        assert_eq!(name(read(service, &path, Some(&format!("x, {token}"))).await).await, "Ada King");
        let page: Value = read(service, "/users", Some(&token)).await.json().await.unwrap();
        assert_eq!(page["users"][0]["name"], "Ada King");
        assert_eq!(
            name(read(service, &path, Some("made-up")).await).await,
            "Ada King",
            "it may have seen all"
        );
        assert_eq!(replica_reads(service).await, before);
        assert_eq!(name(read(service, &path, None).await).await, "ada", "a replica answers");
        assert_eq!(replica_reads(service).await, before + 1);
    }

    fleet.replay(true).await;
    eventually("a replica answers who has seen the change", || async {
        let before = replica_reads(&other).await;
        assert_eq!(name(read(&other, &path, Some(&token)).await).await, "Ada King");
        replica_reads(&other).await > before
    })
    .await;
    let removed = one.delete(&path).send().await.unwrap();
    assert_eq!(read(&other, &path, Some(header(&removed, "last-seen"))).await.status(), 404);
}

#[tokio::test]
async fn who_was_told_of_a_change_reads_it_with_the_token_of_the_event() {
    let fleet = Fleet::start("").await;
    let service = fleet.service("max_lag = \"1h\"").await;
    let path = service.create("ada").await;
    let mut reader = Reader::follow(&service, None).await;
    fleet.replay(false).await;
    rename(&service, &path, "Ada King").await;
    let told = reader.next().await;
    let token = told.last_seen.expect("a token");
    assert_eq!(name(read(&service, &path, Some(&token)).await).await, "Ada King");
    fleet.replay(true).await;
    eventually("a replica answers who was told", || async {
        let before = replica_reads(&service).await;
        assert_eq!(name(read(&service, &path, Some(&token)).await).await, "Ada King");
        replica_reads(&service).await > before
    })
    .await;
}

#[tokio::test]
async fn nobody_reads_less_than_they_wrote_while_replicas_lag() {
    let fleet = Fleet::start("recovery_min_apply_delay = '300ms'\n").await;
    let services = [fleet.service("").await, fleet.service("").await];
    let writers = (0..4).map(|writer| {
        let services = &services;
        async move {
            let path = services[0].create(&format!("writer{writer}")).await;
            for round in 0..50_usize {
                let expected = format!("round {round}");
                let token = rename(&services[round % 2], &path, &expected).await;
                let reader = &services[(round + writer) % 2];
                assert_eq!(name(read(reader, &path, Some(&token)).await).await, expected);
            }
        }
    });
    let mut writers: Vec<_> = writers.map(Box::pin).collect();
    let [a, b, c, d] = &mut writers[..] else { unreachable!("four writers") };
    tokio::join!(a, b, c, d);
}

#[tokio::test]
async fn a_replica_that_lags_or_is_lost_is_not_asked_until_it_is_back() {
    let fleet = Fleet::start("").await;
    let service = fleet.service("max_lag = \"500ms\"").await;
    let path = service.create("ada").await;
    fleet.replay(false).await;
    eventually("both replicas lag", || async {
        rename(&service, &path, "Ada").await;
        rename(&service, &path, "Ada King").await;
        states(&service).await == ["up", "lagging", "lagging"]
    })
    .await;
    assert_eq!(name(read(&service, &path, None).await).await, "Ada King");
    fleet.replay(true).await;
    eventually("both are back", || async { states(&service).await == ["up"; 3] }).await;

    fleet.replicas[0].crash();
    for _ in 0..20 {
        assert_eq!(name(read(&service, &path, None).await).await, "Ada King");
    }
    eventually("the loss is told", || async { states(&service).await == ["up", "away", "up"] }).await;
    assert_eq!(service.metric("user_service_database_server_up{server=\"replica-1\"}").await, 0);
    assert_eq!(service.metric("user_service_database_server_up{server=\"replica-2\"}").await, 1);
    fleet.replicas[0].restart();
    eventually("it is back", || async { states(&service).await == ["up"; 3] }).await;

    // One that was made a primary goes its own way.
    fleet.replicas[1].promote();
    eventually("it is left alone", || async { states(&service).await == ["up", "up", "wrong role"] }).await;
    assert_eq!(name(read(&service, &path, None).await).await, "Ada King");
}

#[tokio::test]
async fn without_its_primary_a_fleet_goes_on_reading() {
    let fleet = Fleet::start("").await;
    let service = fleet.service("").await;
    let path = service.create("ada").await;
    let token = rename(&service, &path, "Ada").await;
    eventually("a replica has it", || async {
        let before = replica_reads(&service).await;
        assert_eq!(name(read(&service, &path, Some(&token)).await).await, "Ada");
        replica_reads(&service).await > before
    })
    .await;
    fleet.replay(false).await;
    let unseen = rename(&service, &path, "Ada King").await;

    fleet.primary.crash();
    eventually("the loss is told", || async { states(&service).await == ["away", "up", "up"] }).await;
    let ready: Value = service.get("/readyz").send().await.unwrap().json().await.unwrap();
    assert_eq!(ready["status"], "read-only");
    assert_eq!(name(read(&service, &path, None).await).await, "Ada");
    assert_eq!(name(read(&service, &path, Some(&token)).await).await, "Ada");
    for answer in
        [read(&service, &path, Some(&unseen)).await, service.post(&user("grace")).send().await.unwrap()]
    {
        assert_eq!(header(&answer, "retry-after"), "1");
        problem(answer, 503, "store-away").await;
    }

    fleet.primary.restart();
    fleet.replay(true).await;
    eventually("writes go on", || async {
        service.post(&user("grace")).send().await.unwrap().status() == 201
    })
    .await;
    assert_eq!(name(read(&service, &path, Some(&unseen)).await).await, "Ada King");
    eventually("all are up", || async { states(&service).await == ["up"; 3] }).await;
}

#[tokio::test]
async fn replicas_are_named_by_flags_and_by_the_environment_too() {
    let fleet = Fleet::start("").await;
    let urls = fleet.replicas.each_ref().map(|replica| fleet.home.url_on(replica));
    let up = async |command: &mut Command, count: usize| {
        let service = Service::spawn(command).await;
        eventually("all servers are up", || async { states(&service).await == vec!["up"; count] }).await;
    };
    let mut command = program(&fleet.home);
    up(command.env("USER_SERVICE_REPLICAS", urls.join(" ")), 3).await;
    // Flags go before.
    up(command.args(["--replica", &urls[0]]), 2).await;
    up(command.args(["--replica", &urls[1]]), 3).await;

    let refused = program(&fleet.home).args(["--replica", "sqlite://x.db"]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
