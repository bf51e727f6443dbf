//! The audit trail: who, what, when, for good.

use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::{Service, directory, header, problem, service, user};

async fn trail(service: &Service, path: &str) -> Value {
    let answer = service.get(path).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "cache-control")), (200, "no-store"));
    answer.json().await.unwrap()
}

#[tokio::test]
async fn every_change_is_in_the_trail_of_its_user_even_when_the_user_is_gone() {
    let directory = directory().await;
    let service = Service::start(&directory, "caller_header = \"X-User\"").await;
    let created = service.post(&user("ada")).header("x-user", "grace").send().await.unwrap();
    let path = header(&created, "location").to_owned();
    service.create("edsger").await;
    let patch = service.patch(&path, &json!({"name": "Ada"})).header("x-user", "command:seed");
    let patched: Value = patch.send().await.unwrap().json().await.unwrap();
    // Changes nothing.
    service.patch(&path, &json!({"name": "Ada"})).send().await.unwrap();
    service.delete(&path).send().await.unwrap();

    let all = trail(&service, &format!("{path}/audit")).await;
    assert_eq!(all.get("next"), None);
    let entries = all["entries"].as_array().unwrap();
    let what: Vec<_> =
        entries.iter().map(|entry| (&entry["action"], &entry["version"], &entry["fields"])).collect();
    assert_eq!(
        what,
        [
            (&json!("created"), &json!(1), &json!(["email", "name"])),
            (&json!("updated"), &json!(2), &json!(["name"])),
            (&json!("deleted"), &json!(3), &json!([])),
        ]
    );
    let who: Vec<_> = entries.iter().map(|entry| entry.get("by").and_then(Value::as_str)).collect();
    assert_eq!(who, [Some("caller:grace"), Some("caller:command:seed"), None]);
    assert_eq!(entries[1]["at"], patched["updated_at"]);
    assert!(!all.to_string().contains("ada@example.com"), "values are not kept");

    // Page by page.
    let mut pages = Vec::new();
    let mut next = Some(0);
    while let Some(after) = next {
        let page = trail(&service, &format!("{path}/audit?limit=2&after={after}")).await;
        pages.extend(page["entries"].as_array().unwrap().clone());
        next = page["next"].as_i64();
    }
    assert_eq!(&pages, entries);
    let behind = format!("{path}/audit?after={}", entries[2]["number"]);
    assert_eq!(trail(&service, &behind).await["entries"], json!([]));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused() {
    let directory = directory().await;
    let service = Service::start(&directory, "caller_header = \"x-user\"").await;
    let path = service.create("ada").await;
    let nobody = "/users/019a3f5e-7c00-7000-8000-000000000001/audit";
    problem(service.get(nobody).send().await.unwrap(), 404, "user-not-found").await;
    for query in ["limit=0", "after=-1", "before=1"] {
        let refused = service.get(&format!("{path}/audit?{query}")).send().await.unwrap();
        problem(refused, 400, "invalid-query").await;
    }
    let twice = service.delete(&path).header("x-user", "ada").header("x-user", "grace");
    problem(twice.send().await.unwrap(), 400, "invalid-caller").await;
    let empty = service.delete(&path).header("x-user", " ");
    problem(empty.send().await.unwrap(), 400, "invalid-caller").await;
    assert_eq!(service.get(&path).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_asks_is_believed_only_where_the_operator_says_so() {
    let (_directory, service) = service().await;
    let created = service.post(&user("ada")).header("x-user", "grace").send().await.unwrap();
    let path = header(&created, "location").to_owned();
    let all = trail(&service, &format!("{path}/audit")).await;
    assert_eq!(all["entries"][0].get("by"), None);
}

#[tokio::test]
async fn the_trail_cannot_be_altered() {
    let (directory, service) = service().await;
    let path = service.create("ada").await;
    let mut database = directory.connect().await;
    for statement in ["UPDATE audit SET actor = 'caller:x'", "DELETE FROM audit"] {
        let error = database.execute(statement).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    assert_eq!(trail(&service, &format!("{path}/audit")).await["entries"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn commands_are_in_the_trail_by_their_names() {
    let directory = directory().await;
    let seed = crate::support::program(&directory).args(["seed", "--count", "1"]).output().await.unwrap();
    assert!(seed.status.success());
    let service = Service::start(&directory, "").await;
    let all = trail(&service, "/users/01941f29-7c00-7000-8000-000000000001/audit").await;
    assert_eq!(all["entries"][0]["by"], "command:seed");
}
