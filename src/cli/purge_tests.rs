//! `tidegate purge` against an admin listener.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode as Status;
use clap::Parser as _;
use parking_lot::Mutex;
use serde_json::json;

use super::super::{Cli, Command};
use super::super::{FAILED, WRONG};
use super::*;
use crate::admin::{Admin, PurgeDone, Ready, Socket, serve};
use crate::telemetry::Meters;

fn words(words: &[&str]) -> Result<Purge, clap::Error> {
    match Cli::try_parse_from([&["tidegate", "purge"], words].concat())?.command {
        Some(Command::Purge(purge)) => Ok(purge),
        other => panic!("{other:?}"),
    }
}

async fn purge(with: &[&str]) -> Result<String, (u8, String)> {
    run(&words(with).unwrap()).await.map_err(|failure| (failure.code, failure.message))
}

/// A real admin listener that notes what it is ordered.
fn admin(token: Option<&str>, here: Option<u64>, fleet: Fleet) -> (Admin, Arc<Mutex<Vec<PurgeOrder>>>) {
    let orders = Arc::new(Mutex::new(Vec::new()));
    let noted = orders.clone();
    let admin = Admin {
        meters: Arc::new(Meters::new()),
        token: token.map(Into::into),
        ready: Arc::new(Ready::waiting_for([])),
        config: Arc::new(|| json!({})),
        upstreams: Arc::new(|| json!({})),
        drain: Arc::new(|_| Err("nothing is drained here".to_owned())),
        quotas: Arc::new(|| json!([])),
        settle: Arc::new(|_| panic!("not asked here")),
        revoke: Arc::new(|_| panic!("not asked here")),
        cache: Arc::new(|| json!({})),
        inspect: Arc::new(|_| Box::pin(async { Err("not asked here".to_owned()) })),
        purge: Arc::new(move |order: PurgeOrder| {
            noted.lock().push(order.clone());
            Box::pin(async move {
                match order.target {
                    Target::Url(url) if url == "https://nowhere/" => Err("no route takes it".to_owned()),
                    _ => Ok(PurgeDone { here, fleet }),
                }
            })
        }),
        in_force: Arc::new(|| panic!("not asked here")),
        reload: Arc::new(|| panic!("not asked here")),
    };
    (admin, orders)
}

fn free() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn one_thing_is_named() {
    for good in
        [&["--url", "https://h/"][..], &["--tag", "a", "--soft"], &["--prefix", "https://h"], &["--all"]]
    {
        words(good).unwrap();
    }
    for bad in [
        &[][..],
        &["--soft"],
        &["--all", "--tag", "a"],
        &["--url", "https://h/", "--url", "https://h/"],
        &["--url", "/users"],
        &["--tag", ""],
        &["--all", "--admin", "9000"],
        &["--all", "--admin", "127.0.0.1:0"],
        &["--all", "--admin", "http://127.0.0.1:9000"],
    ] {
        words(bad).unwrap_err();
    }
}

#[tokio::test]
async fn an_order_arrives_and_the_line_says_what_came_of_it() {
    let rows = [
        (
            &["--url", "https://h/a?b"][..],
            Some(3),
            Fleet::Told,
            "purged https://h/a?b: 3 answers at once; other gateways are told\n",
        ),
        (
            &["--tag", "users", "--soft"],
            Some(1),
            Fleet::Alone,
            "marked what carries the tag `users` stale: 1 answer at once; this gateway shares its cache with no other\n",
        ),
        (
            &["--prefix", "https://h"],
            None,
            Fleet::Later,
            "purged what begins with https://h/: from now on; other gateways are told once the shared store answers again\n",
        ),
        (&["--all"], Some(0), Fleet::Told, "purged everything: 0 answers at once; other gateways are told\n"),
    ];
    for (target, here, fleet, line) in rows {
        let (admin, orders) = admin(None, here, fleet);
        let (listener, address) = free();
        tokio::spawn(serve(Socket::Tcp(listener), admin, std::future::pending()));
        let said = purge(&[target, &["--admin", &address]].concat()).await;
        assert_eq!(said.as_deref(), Ok(line));
        assert_eq!(*orders.lock(), [words(target).unwrap().order()]);
    }
}

#[tokio::test]
async fn the_configuration_says_where_and_what_to_show() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let token = "0123456789abcdef";
    fs::write(file("token"), format!("{token}\n")).unwrap();

    let (told, orders) = admin(Some(token), Some(1), Fleet::Alone);
    let socket = Socket::unix(&directory.path().join("admin.sock")).unwrap();
    tokio::spawn(serve(socket, told.clone(), std::future::pending()));
    let unix = format!("admin = \"unix:{}\"\nadmin_token = {{ file = \"token\" }}\n", file("admin.sock"));
    fs::write(file("unix.toml"), unix).unwrap();
    purge(&["--all", "--config", &file("unix.toml")]).await.unwrap();

    let (listener, address) = free();
    tokio::spawn(serve(Socket::Tcp(listener), told, std::future::pending()));
    let tcp = format!("admin = \"{address}\"\nadmin_token = {{ file = \"token\" }}\n");
    fs::write(file("tcp.toml"), tcp).unwrap();
    purge(&["--tag", "a", "--config", &file("tcp.toml")]).await.unwrap();
    purge(&["--tag", "b", "--config", &file("unix.toml"), "--admin", &address]).await.unwrap();
    assert_eq!(orders.lock().len(), 3);

    // Without the token, the answer says what is missing.
    let (code, message) =
        purge(&["--all", "--config", &file("none"), "--admin", &address]).await.unwrap_err();
    assert_eq!(code, FAILED);
    assert!(message.contains("--token-env"), "{message}");
    let unset = ["--all", "--admin", &address, "--token-env", "TIDEGATE_NOT_SET_ANYWHERE"];
    let (code, message) = purge(&unset).await.unwrap_err();
    assert_eq!(code, WRONG);
    assert!(message.contains("no `TIDEGATE_NOT_SET_ANYWHERE`"), "{message}");
    assert_eq!(orders.lock().len(), 3);
}

#[tokio::test]
async fn a_configuration_that_does_not_say_where_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml").display().to_string();
    for (text, why) in [
        ("admin = \"127.0.0.1:0\"", "--admin"),
        ("admin = \"0.0.0.0:9000\"", "open to others"),
        ("amdin = \"127.0.0.1:9000\"", "amdin"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, message) = purge(&["--all", "--config", &file]).await.unwrap_err();
        assert_eq!(code, WRONG, "{message}");
        assert!(message.contains(why), "{message}");
        assert_eq!(message.matches("error:").count(), 1, "{message}");
    }
}

#[tokio::test]
async fn what_goes_wrong_says_what_to_do() {
    let (admin, _) = admin(None, None, Fleet::Alone);
    let (listener, address) = free();
    tokio::spawn(serve(Socket::Tcp(listener), admin, std::future::pending()));
    let (code, message) = purge(&["--url", "https://nowhere/", "--admin", &address]).await.unwrap_err();
    assert_eq!((code, message.as_str()), (WRONG, "error: no route takes it"));

    let (listener, address) = free();
    drop(listener);
    let (code, message) = purge(&["--all", "--admin", &address]).await.unwrap_err();
    assert_eq!(code, FAILED);
    assert!(message.contains(&address) && message.contains("is the gateway running"), "{message}");
    let (code, message) = purge(&["--all", "--admin", "unix:/nowhere.sock"]).await.unwrap_err();
    assert_eq!(code, FAILED);
    assert!(message.contains("unix:/nowhere.sock"), "{message}");

    for (status, body) in
        [(Status::OK, "hello"), (Status::NOT_FOUND, "<html>"), (Status::OK, "{\"fleet\":\"x\"}")]
    {
        let (listener, address) = free();
        listener.set_nonblocking(true).unwrap();
        let other = Router::new().fallback(async move || (status, body));
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper_util::service::TowerToHyperService::new(other.clone());
                let stream = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
            }
        });
        let (code, message) = purge(&["--all", "--admin", &address]).await.unwrap_err();
        assert_eq!(code, FAILED);
        assert!(message.contains("not as an admin listener"), "{message}");
    }

    // Whoever takes the connection and says nothing is no gateway, either.
    let (listener, address) = free();
    let silent = tokio::task::spawn_blocking(move || drop(listener.accept().unwrap()));
    let (code, message) = purge(&["--all", "--admin", &address]).await.unwrap_err();
    silent.await.unwrap();
    assert_eq!(code, FAILED);
    assert!(message.contains("broke off"), "{message}");
}
