//! Users come, are read, change and go.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Service, header, service, user};

#[tokio::test]
async fn a_created_user_is_read_as_it_was_answered() {
    let (_directory, service) = service().await;
    let answer = service.post(&json!({"email": "Ada@Example.COM", "name": " Ada "})).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "etag"), "\"1\"");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!(header(&answer, "content-type"), "application/json");
    let location = header(&answer, "location").to_owned();
    let created: Value = answer.json().await.unwrap();
    assert_eq!(created["email"], "Ada@example.com");
    assert_eq!(created["name"], "Ada");
    assert_eq!(created["version"], 1);
    assert_eq!(created["created_at"], created["updated_at"]);
    assert_eq!(location, format!("/users/{}", created["id"].as_str().unwrap()));

    let read = service.get(&location).send().await.unwrap();
    assert_eq!(read.status(), 200);
    assert_eq!(header(&read, "etag"), "\"1\"");
    assert_eq!(header(&read, "cache-control"), "public, max-age=0, s-maxage=30");
    assert_eq!(header(&read, "cache-tag"), format!("user:{}", created["id"].as_str().unwrap()));
    assert_eq!(header(&read, "x-content-type-options"), "nosniff");
    assert_eq!(header(&read, "x-served-by"), service.base.replace("http://", "user-service@"));
    assert_eq!(header(&read, "vary"), "");
    assert_eq!(read.json::<Value>().await.unwrap(), created);
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let get = service.get(&path).send().await.unwrap();
    let head = service.request(reqwest::Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.status(), 200);
    for name in ["etag", "cache-control", "cache-tag", "content-type", "content-length"] {
        assert_eq!(header(&head, name), header(&get, name), "{name}");
        assert_ne!(header(&head, name), "", "{name}");
    }
    assert_eq!(head.bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn put_replaces_and_counts_the_change() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let before: Value = service.get(&path).send().await.unwrap().json().await.unwrap();
    let answer = service.put(&path, &json!({"email": "b@example.com", "name": "B"})).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (200, "\"2\""));
    assert_eq!(header(&answer, "cache-control"), "no-store");
    let after: Value = answer.json().await.unwrap();
    assert_eq!((&after["email"], &after["name"]), (&json!("b@example.com"), &json!("B")));
    assert_eq!((&after["id"], &after["created_at"]), (&before["id"], &before["created_at"]));
    assert!(after["updated_at"].as_str() >= before["updated_at"].as_str());
    assert_eq!(service.get(&path).send().await.unwrap().json::<Value>().await.unwrap(), after);
}

#[tokio::test]
async fn a_change_to_the_same_changes_nothing() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let before: Value = service.get(&path).send().await.unwrap().json().await.unwrap();
    let put = service.put(&path, &user("ada")).send().await.unwrap();
    assert_eq!(header(&put, "etag"), "\"1\"");
    assert_eq!(put.json::<Value>().await.unwrap(), before);
    let patch = service.patch(&path, &json!({})).send().await.unwrap();
    assert_eq!(header(&patch, "etag"), "\"1\"");
}

#[tokio::test]
async fn patch_changes_what_it_names() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let answer = service.patch(&path, &json!({"name": "Ada King"})).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (200, "\"2\""));
    let after: Value = answer.json().await.unwrap();
    assert_eq!((&after["email"], &after["name"]), (&json!("ada@example.com"), &json!("Ada King")));
}

#[tokio::test]
async fn a_removed_user_is_gone_and_its_email_is_free() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let answer = service.delete(&path).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.bytes().await.unwrap().len(), 0);
    assert_eq!(service.get(&path).send().await.unwrap().status(), 404);
    assert_eq!(service.delete(&path).send().await.unwrap().status(), 404);
    assert_ne!(service.create("ada").await, path);
}

#[tokio::test]
async fn pages_show_every_user_once_in_order() {
    let (_directory, service) = service().await;
    let mut expected = Vec::new();
    for number in 0..7 {
        expected.push(service.create(&format!("user{number}")).await);
    }
    let mut seen = Vec::new();
    let mut path = "/users?limit=3".to_owned();
    let mut pages = 0;
    loop {
        let answer = service.get(&path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let link = header(&answer, "link").to_owned();
        let page: Value = answer.json().await.unwrap();
        let users = page["users"].as_array().unwrap();
        seen.extend(users.iter().map(|user| format!("/users/{}", user["id"].as_str().unwrap())));
        pages += 1;
        if link.is_empty() {
            assert!(page.get("next").is_none());
            break;
        }
        path = link.trim_start_matches('<').trim_end_matches(">; rel=\"next\"").to_owned();
        assert_eq!(path, format!("/users?limit=3&after={}", page["next"].as_str().unwrap()));
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, expected);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 7);
}

#[tokio::test]
async fn a_page_that_just_fits_has_no_next() {
    let (_directory, service) = service().await;
    for number in 0..3 {
        service.create(&format!("user{number}")).await;
    }
    let answer = service.get("/users?limit=3").send().await.unwrap();
    assert_eq!(header(&answer, "link"), "");
    let directory = crate::support::directory().await;
    let empty = Service::start(&directory, "").await;
    let page: Value = empty.get("/users").send().await.unwrap().json().await.unwrap();
    assert_eq!(page, json!({"users": []}));
}

#[tokio::test]
async fn pages_are_tagged_and_revalidated() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    let page = service.get("/users").send().await.unwrap();
    assert_eq!(header(&page, "cache-tag"), format!("users,user:{}", path.trim_start_matches("/users/")));
    assert_eq!(header(&page, "cache-control"), "public, max-age=0, s-maxage=30");
    let tag = header(&page, "etag").to_owned();
    assert!(tag.starts_with("W/\""));

    let again = service.get("/users").header("if-none-match", &tag).send().await.unwrap();
    assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, tag.as_str()));
    service.create("grace").await;
    let changed = service.get("/users").header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(changed.status(), 200);
}

#[tokio::test]
async fn large_pages_are_tagged_as_a_whole() {
    let (_directory, service) = service().await;
    for number in 0..21 {
        service.create(&format!("user{number}")).await;
    }
    let large = service.get("/users?limit=100").send().await.unwrap();
    assert_eq!(header(&large, "cache-tag"), "users");
    let usual = service.get("/users").send().await.unwrap();
    assert_eq!(header(&usual, "cache-tag").split(',').count(), 21);
    assert_eq!(usual.json::<Value>().await.unwrap()["users"].as_array().unwrap().len(), 20);
}
