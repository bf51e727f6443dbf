//! A server that breaks transactions off, is slow, goes and comes back.

use std::process::Stdio;

use sqlx::{Connection as _, Executor as _};

use crate::database::Home;
use crate::relay::Relay;
use crate::server::{Server, shared};
use crate::support::{Service, directory, eventually, header, problem, program, service, user};

/// Makes the first three insertions of users fail, and lets the fourth one pass: a sequence is not rolled back.
const CONTENTION: &str = "
    CREATE SEQUENCE tries;
    CREATE FUNCTION contend() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('tries') <= 3 THEN RAISE EXCEPTION 'contention' USING ERRCODE = 'serialization_failure'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER contend BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION contend();";

#[tokio::test]
async fn a_transaction_that_the_server_breaks_off_is_tried_again() {
    let (directory, service) = service().await;
    directory.connect().await.execute(CONTENTION).await.unwrap();
    assert_eq!(service.post(&user("ada")).send().await.unwrap().status(), 201);
    assert_eq!(service.metric("user_service_database_busy_retries_total").await, 3);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_and_changes_nothing() {
    let directory = directory().await;
    let service = Service::start(&directory, "statement_timeout = \"1s\"").await;
    let mut database = directory.connect().await;
    database
        .execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
             CREATE TRIGGER dawdle BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION dawdle();",
        )
        .await
        .unwrap();
    let late = service.post(&user("ada")).send().await.unwrap();
    assert_eq!(header(&late, "retry-after"), "1");
    problem(late, 503, "store-busy").await;
    database.execute("DROP TRIGGER dawdle ON users").await.unwrap();
    assert_eq!(service.post(&user("ada")).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn connections_that_were_ended_meanwhile_are_replaced_unseen() {
    let (directory, service) = service().await;
    let path = service.create("ada").await;
    assert_eq!(service.get(&path).send().await.unwrap().status(), 200);
    let mut database = directory.connect().await;
    let ended = database
        .execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
    assert!(ended.rows_affected() >= 2, "a reader and a writer");
    assert_eq!(service.get(&path).send().await.unwrap().status(), 200);
    assert_eq!(service.post(&user("grace")).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_server_that_crashes_is_waited_for_and_has_lost_nothing() {
    let server = Server::start("");
    let directory = Home::on(&server).await;
    let service = Service::start(&directory, "store_patience = \"2s\"").await;
    let path = service.create("ada").await;
    server.crash();
    for request in [service.get(&path), service.post(&user("grace"))] {
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "1"));
    }
    assert_eq!(service.get("/readyz").send().await.unwrap().status(), 503);
    assert_eq!(service.get("/healthz").send().await.unwrap().status(), 200);

    server.restart();
    eventually("reads go on", || async { service.get(&path).send().await.unwrap().status() == 200 }).await;
    eventually("writes go on", || async {
        service.post(&user("grace")).send().await.unwrap().status() == 201
    })
    .await;
    assert_eq!(service.get("/readyz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn processes_that_start_at_once_take_turns_at_the_tables() {
    let directory = directory().await;
    drop(Service::start(&directory, "").await);
    let mut holder = directory.connect().await;
    let mut tables = holder.begin().await.unwrap();
    tables.execute("LOCK TABLE _sqlx_migrations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // One holds the turn and waits for the table, the other one waits for the turn.
    let both_wait = async {
        eventually("one has its turn and one waits", || async { turns(&directory).await == (1, 1) }).await;
        tables.rollback().await.unwrap();
    };
    let start = || Service::start(&directory, "");
    let (one, other, ()) = tokio::join!(start(), start(), both_wait);
    for service in [one, other] {
        assert_eq!(service.get("/readyz").send().await.unwrap().status(), 200);
    }
}

/// How many have an advisory lock in this database, and how many wait for one.
async fn turns(directory: &Home) -> (i64, i64) {
    let turns = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks \
         WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    turns.fetch_one(&mut directory.connect().await).await.unwrap()
}

/// What the program writes to both outputs with this URL, and how it ends.
async fn told(directory: &Home, url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(program(directory).as_std().get_program());
    command.env_clear().env("USER_SERVICE_DATABASE", url).args(["--listen", "127.0.0.1:0"]).args(arguments);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_password_is_told_to_nobody() {
    let server = Server::start_guarded();
    let directory = Home::on(&server).await;
    drop(Service::start(&directory, "").await);
    let nobody = crate::ports::free_port();
    for (code, url, arguments, expected) in [
        (Some(1), format!("postgres://u:hunter2@127.0.0.1:{nobody}/users"), &[][..], "refused"),
        (Some(1), directory.url().replace("s%40crEt", "hunter2"), &[], "password authentication failed"),
        (Some(2), "postgres://u:hunter2@db.example/users?sslmode=require".into(), &[], "verify-full"),
        (Some(2), "postgres//u:hunter2@db.example/users".into(), &[], "postgres://USER@HOST/DATABASE"),
        (Some(0), "postgres://u:hunter2@db.example/users".into(), &["--help"], "USER_SERVICE_DATABASE"),
    ] {
        let (ended, text) = told(&directory, &url, arguments).await;
        assert_eq!(ended, code, "{text}");
        assert!(text.contains(expected), "{expected} is not in: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// As with a machine that loses its power, and another one that takes its name: the connections of before hear nothing.
#[tokio::test]
async fn a_server_that_falls_silent_keeps_no_connection_from_who_comes_after_it() {
    let home = directory().await;
    let relay = Relay::to(shared().port).await;
    let url = home.url().replace(&format!(":{}/", shared().port), &format!(":{}/", relay.port));
    let config = "request_timeout = \"2s\"\nwrite_connections = 2";
    let file = home.path().join("silent.toml");
    std::fs::write(&file, config).unwrap();
    let mut program = program(&home);
    let service = Service::spawn(program.env("USER_SERVICE_DATABASE", url).arg("--config").arg(file)).await;
    let hold = home.hold_writes().await;
    let (ada, grace) = (user("ada"), user("grace"));
    let (one, other) = (service.post(&ada).send(), service.post(&grace).send());
    let falls = async {
        eventually("both places are taken", || async {
            let waiting = sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut home.connect().await).await;
            waiting.unwrap() == 2
        })
        .await;
        relay.silence();
    };
    let (one, other, ()) = tokio::join!(one, other, falls);
    problem(one.unwrap(), 503, "timeout").await;
    problem(other.unwrap(), 503, "timeout").await;
    hold.release().await;
    eventually("writes go on", || async { service.post(&ada).send().await.unwrap().status() == 201 }).await;
}
