//! Users by the beginning of their emails and names, and in their order.

use serde_json::{Value, json};

use crate::support::{Service, header, problem, service};

/// Users whose emails and names are not in one order.
const USERS: [(&str, &str); 7] = [
    ("Ada@Example.com", "Zoe"),
    ("adam@example.com", "ada"),
    ("ad%m@example.com", "Ada"),
    ("bob@example.com", "Älva"),
    ("carol@example.com", "Ada King"),
    ("dora@example.com", "älva"),
    ("ada_x@example.com", "bob"),
];

async fn filled() -> (crate::database::Home, Service) {
    let (directory, service) = service().await;
    for (email, name) in USERS {
        let user = json!({ "email": email, "name": name });
        assert_eq!(service.post(&user).send().await.unwrap().status(), 201);
    }
    (directory, service)
}

/// A field of all users that a query finds, page by page as the links say.
async fn find(service: &Service, query: &str, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = Some(format!("/users?{query}"));
    while let Some(this) = path {
        let answer = service.get(&this).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{this}");
        let link = header(&answer, "link").strip_prefix('<').and_then(|link| link.split_once('>'));
        path = link.map(|(path, _)| path.to_owned());
        let page: Value = answer.json().await.unwrap();
        assert_eq!(page["next"].is_null(), path.is_none());
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 2);
        found.extend(users.iter().map(|user| user[field].as_str().unwrap().to_owned()));
    }
    found
}

#[tokio::test]
async fn users_are_found_by_the_beginning_of_their_email_whatever_its_case() {
    let (_directory, service) = filled().await;
    let found = find(&service, "limit=2&email=ADA", "email").await;
    assert_eq!(found, ["Ada@example.com", "ada_x@example.com", "adam@example.com"]);
    assert_eq!(find(&service, "limit=2&email=ad%25", "email").await, ["ad%m@example.com"]);
    assert_eq!(find(&service, "limit=2&email=bob@example.com", "email").await, ["bob@example.com"]);
    assert_eq!(find(&service, "limit=2&email=nobody", "email").await, [""; 0]);
}

#[tokio::test]
async fn users_are_found_by_the_beginning_of_their_name() {
    let (_directory, service) = filled().await;
    let found = find(&service, "limit=2&name=aDa&sort=name", "email").await;
    assert_eq!(found, ["adam@example.com", "ad%m@example.com", "carol@example.com"], "namesakes by age");
    assert_eq!(find(&service, "limit=2&name=%C3%84", "name").await, ["Älva"], "of ASCII letters alone");
}

#[tokio::test]
async fn all_users_come_in_the_order_that_is_asked_for() {
    let (_directory, service) = filled().await;
    let names = find(&service, "limit=2&sort=name", "name").await;
    assert_eq!(names, ["ada", "Ada", "Ada King", "bob", "Zoe", "Älva", "älva"]);
    // Nothing comes behind the last of all characters, and it is in the list all the same.
    let last = json!({ "email": "last@example.com", "name": "\u{10ffff}\u{10ffff}z" });
    assert_eq!(service.post(&last).send().await.unwrap().status(), 201);
    for query in ["limit=2&sort=name", "limit=2&name=%F4%8F%BF%BF"] {
        assert_eq!(find(&service, query, "email").await.last().unwrap(), "last@example.com", "{query}");
    }
    let emails = find(&service, "limit=2&sort=email", "email").await;
    assert_eq!(emails[..3], ["ad%m@example.com", "Ada@example.com", "ada_x@example.com"]);
    assert_eq!(emails.len(), 8);
    let ids = find(&service, "limit=2&sort=id", "id").await;
    assert!(ids.is_sorted() && ids.len() == 8);
}

#[tokio::test]
async fn what_no_index_has_is_refused() {
    let (_directory, service) = filled().await;
    let page: Value = service.get("/users?limit=1").send().await.unwrap().json().await.unwrap();
    let foreign = format!("sort=name&after={}", page["next"].as_str().unwrap());
    for query in ["email=a&name=a", "email=a&sort=name", "sort=age", "email=", &foreign] {
        problem(service.get(&format!("/users?{query}")).send().await.unwrap(), 400, "invalid-query").await;
    }
}
