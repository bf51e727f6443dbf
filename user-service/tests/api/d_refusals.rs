//! Requests that are refused, each for its reason and in the one form.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Service, directory, header, problem, service, user};

#[tokio::test]
async fn an_email_belongs_to_one_user_whatever_its_case() {
    let (_directory, service) = service().await;
    service.create("ada").await;
    let path = service.create("grace").await;
    let taken = json!({"email": "ADA@EXAMPLE.com", "name": "Other"});
    problem(service.post(&taken).send().await.unwrap(), 409, "email-taken").await;
    problem(service.put(&path, &taken).send().await.unwrap(), 409, "email-taken").await;
    problem(service.patch(&path, &taken).send().await.unwrap(), 409, "email-taken").await;
    let own = service.patch(&path, &json!({"email": "Grace@example.com"})).send().await.unwrap();
    assert_eq!(own.status(), 200);
}

#[tokio::test]
async fn wrong_fields_are_all_told() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let wrong = json!({"email": "nobody", "name": 7, "version": 3, "admin": true});
    for request in [service.post(&wrong), service.put(&path, &wrong), service.patch(&path, &wrong)] {
        let body = problem(request.send().await.unwrap(), 422, "invalid-user").await;
        let mut told: Vec<_> = body["errors"].as_array().unwrap().iter().collect();
        told.sort_by_key(|fault| fault["pointer"].as_str());
        let told: Vec<_> =
            told.iter().map(|fault| (fault["pointer"].as_str(), fault["code"].as_str())).collect();
        let expected =
            [("#/admin", "unknown"), ("#/email", "invalid"), ("#/name", "type"), ("#/version", "unknown")];
        assert_eq!(told, expected.map(|(pointer, code)| (Some(pointer), Some(code))));
    }
    let missing =
        problem(service.patch(&path, &json!({"name": null})).send().await.unwrap(), 422, "invalid-user");
    assert_eq!(
        missing.await["errors"],
        json!([{"pointer": "#/name", "code": "required", "detail": "is required"}])
    );
    problem(service.patch(&path, &json!([])).send().await.unwrap(), 422, "invalid-user").await;
}

#[tokio::test]
async fn bodies_must_be_json_of_the_right_type() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    for body in ["", "{", "{\"email\":}", "nonsense", "{} {}"] {
        let post =
            service.request(Method::POST, "/users").header("content-type", "application/json").body(body);
        problem(post.send().await.unwrap(), 400, "invalid-json").await;
    }
    let sent_as = |method: Method, path: &str, media_type: &str| {
        service.request(method, path).header("content-type", media_type).body(user("grace").to_string())
    };
    let post = sent_as(Method::POST, "/users", "text/plain").send().await.unwrap();
    assert_eq!(header(&post, "accept"), "application/json");
    problem(post, 415, "unsupported-media-type").await;
    let patch = sent_as(Method::PATCH, &path, "application/json").send().await.unwrap();
    assert_eq!(header(&patch, "accept-patch"), "application/merge-patch+json");
    problem(patch, 415, "unsupported-media-type").await;
    let none = service.request(Method::PUT, &path).body("{}").send().await.unwrap();
    problem(none, 415, "unsupported-media-type").await;
    let coded =
        sent_as(Method::PUT, &path, "application/json").header("content-encoding", "gzip").send().await;
    problem(coded.unwrap(), 415, "unsupported-media-type").await;
    let fine = sent_as(Method::PUT, &path, "application/json; charset=utf-8").send().await.unwrap();
    assert_eq!(fine.status(), 200);
}

#[tokio::test]
async fn large_bodies_are_refused_announced_or_not() {
    let (_directory, service) = service().await;
    let large = json!({"email": "a@example.com", "name": "x".repeat(64 * 1024)}).to_string();
    let post = || service.request(Method::POST, "/users").header("content-type", "application/json");
    problem(post().body(large.clone()).send().await.unwrap(), 413, "body-too-large").await;

    // In chunks, without an announced length.
    let mut stream =
        tokio::net::TcpStream::connect(service.base.trim_start_matches("http://")).await.unwrap();
    let head = "POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    stream.write_all(format!("{head}{chunk}").as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");

    let fits = " ".repeat(63 * 1024) + &user("ada").to_string();
    assert_eq!(post().body(fits).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn queries_are_held_to_what_is_known() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let wrong = [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=",
        "after=x",
        "after=",
        "page=2",
        "limit=1&limit=2",
        "limit",
    ];
    for query in wrong {
        let answer = service.get(&format!("/users?{query}")).send().await.unwrap();
        problem(answer, 400, "invalid-query").await;
    }
    let detail = problem(service.get("/users?page=2").send().await.unwrap(), 400, "invalid-query").await;
    assert!(detail["detail"].as_str().unwrap().contains("page"), "{detail}");
    problem(service.get(&format!("{path}?a=1")).send().await.unwrap(), 400, "invalid-query").await;
    problem(service.delete(&format!("{path}?a=1")).send().await.unwrap(), 400, "invalid-query").await;
    assert_eq!(service.get("/users?limit=100").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_served_are_told_so() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    for nowhere in ["/", "/user", "/users/", "/users/a/b"] {
        problem(service.get(nowhere).send().await.unwrap(), 404, "not-found").await;
    }
    let upper = path.to_uppercase().replace("/USERS/", "/users/");
    for nobody in ["/users/1", "/users/019a3f5e-7c00-7000-8000-000000000001", "/users/%ff", &upper] {
        problem(service.get(nobody).send().await.unwrap(), 404, "user-not-found").await;
    }
    for (path, allowed) in [("/users", "GET,HEAD,POST"), (path.as_str(), "GET,HEAD,PUT,PATCH,DELETE")] {
        let answer = service.request(Method::OPTIONS, path).send().await.unwrap();
        let mut allow: Vec<_> = header(&answer, "allow").split(',').collect();
        let mut expected: Vec<_> = allowed.split(',').collect();
        allow.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allow, expected);
        problem(answer, 405, "method-not-allowed").await;
    }
}

#[tokio::test]
async fn a_broken_database_is_not_talked_about() {
    let (directory, service) = service().await;
    let path = service.create("ada").await;
    directory.connect().await.execute("DROP TABLE users").await.unwrap();
    for request in
        [service.get(&path), service.get("/users"), service.post(&user("x")), service.delete(&path)]
    {
        let body = problem(request.send().await.unwrap(), 500, "internal").await;
        let expected = json!({
            "type": "/problems/internal", "title": "Internal Server Error", "status": 500, "code": "internal"
        });
        assert_eq!(body, expected);
    }
    problem(service.get("/readyz").send().await.unwrap(), 503, "store-away").await;
    assert_eq!(service.get("/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_busy_database_asks_to_come_again() {
    let directory = directory().await;
    let service = Service::start(&directory, "store_patience = \"2s\"").await;
    let path = service.create("ada").await;
    let hold = directory.hold_writes().await;
    let busy = service.post(&user("grace")).send().await.unwrap();
    assert_eq!(header(&busy, "retry-after"), "1");
    let body = problem(busy, 503, "store-busy").await;
    assert_eq!(body.get("detail"), None);
    assert_eq!(service.get(&path).send().await.unwrap().status(), 200, "readers do not wait for writers");
    hold.release().await;
    assert_eq!(service.post(&user("grace")).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn twenty_creations_of_one_email_create_one_user() {
    let (_directory, service) = service().await;
    let requests: Vec<_> = (0..20).map(|_| tokio::spawn(service.post(&user("ada")).send())).collect();
    let mut created = 0;
    for request in requests {
        let answer = request.await.unwrap().unwrap();
        if answer.status() == 201 {
            created += 1;
        } else {
            problem(answer, 409, "email-taken").await;
        }
    }
    assert_eq!(created, 1);
    let page: Value = service.get("/users").send().await.unwrap().json().await.unwrap();
    assert_eq!(page["users"].as_array().unwrap().len(), 1);
}
