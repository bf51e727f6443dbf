//! What operators see: configuration, health, metrics, the description of the API, example users.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Service, directory, header, program, service};

#[tokio::test]
async fn the_description_of_the_api_is_the_golden_one() {
    let (_directory, service) = service().await;
    let answer = service.get("/openapi.json").send().await.unwrap();
    assert_eq!(header(&answer, "content-type"), "application/json");
    let text = answer.text().await.unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    for reference in text.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
    // The same for every database.
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("openapi", text));
}

#[tokio::test]
async fn the_page_for_people_loads_nothing_from_elsewhere() {
    let (_directory, service) = service().await;
    let mut parts = vec!["/docs".to_owned()];
    let mut seen = 0;
    while let Some(path) = parts.pop() {
        let answer = service.get(&path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let policy = header(&answer, "content-security-policy").to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        let kind = header(&answer, "content-type").to_owned();
        let text = answer.text().await.unwrap();
        assert!(!text.contains("//cdn") && !text.contains("https://"), "{path}");
        if kind.starts_with("text/html") {
            // No script and no style in the page itself, which the policy would not let in.
            assert!(
                !text.contains("<style") && !text.contains("onclick") && text.matches("<script").count() == 1
            );
            let links = text.split(['"']).filter(|link| link.starts_with("/docs/"));
            parts.extend(links.map(str::to_owned));
        }
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[tokio::test]
async fn alive_and_ready_are_told() {
    let (_directory, service) = service().await;
    for path in ["/healthz", "/readyz"] {
        let answer = service.get(path).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "cache-control")), (200, "no-store"));
        assert_eq!(answer.json::<Value>().await.unwrap()["status"], "ok");
    }
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_nothing_that_clients_make_up() {
    let (_directory, service) = service().await;
    let path = service.create("ada").await;
    service.get(&path).send().await.unwrap();
    service.get("/users/none").send().await.unwrap();
    service.get("/made-up").send().await.unwrap();
    service.request("BREW".parse().unwrap(), "/users").send().await.unwrap();
    let answer = service.get("/metrics").send().await.unwrap();
    assert_eq!(header(&answer, "content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let page = answer.text().await.unwrap();
    assert!(page.ends_with("# EOF\n"));
    for line in [
        r#"user_service_http_requests_total{method="POST",route="/users",status="201"} 1"#,
        r#"user_service_http_requests_total{method="GET",route="/users/{id}",status="200"} 1"#,
        r#"user_service_http_requests_total{method="GET",route="/users/{id}",status="404"} 1"#,
        r#"user_service_http_requests_total{method="GET",route="unmatched",status="404"} 1"#,
        r#"user_service_http_requests_total{method="other",route="/users",status="405"} 1"#,
        r#"user_service_http_request_seconds_count{method="GET",route="/users/{id}"} 2"#,
        r#"user_service_database_connections{pool="writer",state="idle"} 1"#,
        "user_service_database_busy_retries_total 0",
        "user_service_panics_total 0",
    ] {
        assert!(page.contains(line), "{line} is not in:\n{page}");
    }
    assert!(!page.contains("made-up") && !page.contains("BREW"));
}

#[tokio::test]
async fn flags_go_before_environment_before_file() {
    let directory = directory().await;
    let config = directory.path().join("c.toml");
    std::fs::write(&config, "name = \"from file\"\ncache_control = \"private\"").unwrap();
    let seen = async |service: Service| {
        let answer = service.get("/users").send().await.unwrap();
        (header(&answer, "x-served-by").to_owned(), header(&answer, "cache-control").to_owned())
    };
    let mut command = program(&directory);
    command.env("USER_SERVICE_CONFIG", &config);
    assert_eq!(seen(Service::spawn(&mut command).await).await, ("from file".into(), "private".into()));
    command.env("USER_SERVICE_NAME", "from env");
    assert_eq!(seen(Service::spawn(&mut command).await).await.0, "from env");
    command.args(["--name", "from flag"]);
    assert_eq!(seen(Service::spawn(&mut command).await).await.0, "from flag");
}

#[tokio::test]
async fn the_shipped_configuration_is_read() {
    let directory = directory().await;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/user-service.toml");
    let service = Service::spawn(program(&directory).args(["--config", shipped])).await;
    let answer = service.get("/users").send().await.unwrap();
    assert_eq!(header(&answer, "cache-control"), "public, max-age=0, s-maxage=30");
}

/// Runs the program to its end; gives exit code, stdout and stderr.
async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let directory = directory().await;
    let mut command = program(&directory);
    let output = command.stderr(Stdio::piped()).args(arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn wrong_configuration_ends_with_2_and_says_what_is_wrong() {
    let directory = directory().await;
    let config = directory.path().join("c.toml");
    std::fs::write(&config, "listen = \"127.0.0.1:0\"\ndatabse = \"x\"").unwrap();
    let path = config.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--config", path], &[path, "line 2", "databse", "expected one of"]),
        (&["--config", "/nonexistent.toml"], &["/nonexistent.toml", "cannot be read"]),
        (&["--name", ""], &["--name", "visible ASCII"]),
        (&["--log", "user_service=lots"], &["log"]),
        (&["--port", "1"], &["--port"]),
    ];
    for (arguments, expected) in cases {
        let (code, stdout, stderr) = run(arguments).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        for text in expected {
            assert!(stderr.contains(text), "{text} is not in: {stderr}");
        }
    }
}

#[tokio::test]
async fn a_failed_start_ends_with_1_and_says_why() {
    let (directory, running) = service().await;
    let taken = running.base.trim_start_matches("http://").to_owned();
    let mut bare = tokio::process::Command::new(env!("CARGO_BIN_EXE_user-service"));
    let database = format!("sqlite://{}/other.db", directory.path().display());
    let output = bare.env_clear().args(["--listen", &taken, "--database", &database]).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&taken), "{stderr}");

    let mut nowhere = tokio::process::Command::new(env!("CARGO_BIN_EXE_user-service"));
    let arguments = ["--listen", "127.0.0.1:0", "--database", "sqlite:///proc/none/users.db"];
    let output = nowhere.env_clear().args(arguments).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("directory"), "{stderr}");
}

#[tokio::test]
async fn example_users_come_once_and_always_the_same() {
    let directory = directory().await;
    let seed = async |count: &str| {
        let output = program(&directory).args(["seed", "--count", count]).output().await.unwrap();
        assert!(output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(seed("30").await, json!({"created": 30, "present": 0}));
    let service = Service::start(&directory, "").await;
    assert_eq!(seed("32").await, json!({"created": 2, "present": 30}));
    let page: Value = service.get("/users?limit=100").send().await.unwrap().json().await.unwrap();
    assert_eq!(page["users"].as_array().unwrap().len(), 32);
    let first = service.get("/users/01941f29-7c00-7000-8000-000000000001").send().await.unwrap();
    assert_eq!(first.json::<Value>().await.unwrap()["email"], "ada.abara@example.com");
}
