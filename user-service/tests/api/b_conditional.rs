//! Preconditions: nobody overwrites what they have not seen, nobody is sent what they have.

use serde_json::{Value, json};

use crate::support::{Service, directory, header, problem, service, user};

#[tokio::test]
async fn a_known_version_is_not_sent_again() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    for known in ["\"1\"", "W/\"1\"", "\"0\", \"1\"", "*"] {
        let answer = service.get(&path).header("if-none-match", known).send().await.unwrap();
        assert_eq!(answer.status(), 304, "{known}");
        assert_eq!(header(&answer, "etag"), "\"1\"");
        assert_eq!(header(&answer, "cache-control"), "public, max-age=0, s-maxage=30");
        assert_ne!(header(&answer, "cache-tag"), "");
        assert_eq!(answer.bytes().await.unwrap().len(), 0);
    }
    for other in ["\"2\"", "1", ""] {
        let answer = service.get(&path).header("if-none-match", other).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{other}");
    }
    let unmet = service.get(&path).header("if-match", "\"2\"").send().await.unwrap();
    problem(unmet, 412, "precondition-failed").await;
}

#[tokio::test]
async fn changes_hold_to_if_match() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let body = user("grace");
    for stale in ["\"0\"", "\"2\"", "W/\"1\"", "1"] {
        let put = service.put(&path, &body).header("if-match", stale).send().await.unwrap();
        problem(put, 412, "precondition-failed").await;
        let patch = service.patch(&path, &body).header("if-match", stale).send().await.unwrap();
        problem(patch, 412, "precondition-failed").await;
        let delete = service.delete(&path).header("if-match", stale).send().await.unwrap();
        problem(delete, 412, "precondition-failed").await;
    }
    let put = service.put(&path, &body).header("if-match", "\"1\"").send().await.unwrap();
    assert_eq!((put.status().as_u16(), header(&put, "etag")), (200, "\"2\""));
    let patch =
        service.patch(&path, &json!({"name": "X"})).header("if-match", "\"9\", \"2\"").send().await.unwrap();
    assert_eq!((patch.status().as_u16(), header(&patch, "etag")), (200, "\"3\""));
    let delete = service.delete(&path).header("if-match", "*").send().await.unwrap();
    assert_eq!(delete.status(), 204);
}

#[tokio::test]
async fn if_none_match_keeps_a_user_from_being_overwritten() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let put = service.put(&path, &user("grace")).header("if-none-match", "*").send().await.unwrap();
    problem(put, 412, "precondition-failed").await;
    let delete = service.delete(&path).header("if-none-match", "\"1\"").send().await.unwrap();
    problem(delete, 412, "precondition-failed").await;
}

#[tokio::test]
async fn put_never_creates() {
    let (_directory, service) = service().await;
    let path = "/users/019a3f5e-7c00-7000-8000-000000000001";
    for (name, value) in [("if-none-match", "*"), ("if-match", "*"), ("x-none", "")] {
        let put = service.put(path, &user("ada")).header(name, value).send().await.unwrap();
        problem(put, 404, "user-not-found").await;
    }
}

#[tokio::test]
async fn twenty_racing_writers_lose_no_update() {
    let directory = directory().await;
    let services = [Service::start(&directory, "").await, Service::start(&directory, "").await];
    let path = services[0].create("ada").await;
    let writers = (0..20).map(|number| {
        let service = &services[number % 2];
        let (client, url) = (service.client.clone(), format!("{}{path}", service.base));
        tokio::spawn(async move { append(&client, &url, &format!(" w{number}")).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let user: Value = services[1].get(&path).send().await.unwrap().json().await.unwrap();
    assert_eq!(user["version"], 21);
    let mut words: Vec<_> = user["name"].as_str().unwrap().split(' ').collect();
    words.sort_unstable();
    let mut expected: Vec<_> = (0..20).map(|number| format!("w{number}")).collect();
    expected.push("ada".into());
    expected.sort_unstable();
    assert_eq!(words, expected);
}

/// Reads, appends to the name, and writes on condition that nobody wrote in between; as often as it takes.
async fn append(client: &reqwest::Client, url: &str, text: &str) {
    for _ in 0..500 {
        let read = client.get(url).send().await.unwrap();
        let tag = header(&read, "etag").to_owned();
        let name = read.json::<Value>().await.unwrap()["name"].as_str().unwrap().to_owned() + text;
        let body = json!({ "email": "ada@example.com", "name": name });
        match client.put(url).header("if-match", tag).json(&body).send().await.unwrap().status().as_u16() {
            200 => return,
            412 => {}
            other => panic!("status {other}"),
        }
    }
    panic!("no turn in 500 tries");
}
