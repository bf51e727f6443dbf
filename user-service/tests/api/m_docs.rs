//! `/docs` in a browser: what people see there, and whom the page asks.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::service;

/// Debian's package of the same name brings it.
const BROWSER: &str = "chromium-headless-shell";
/// The page is the service's own, and tests run as root, for whom the browser has no sandbox.
const WORDS: [&str; 6] = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--enable-logging=stderr",
    // By the page's own clock: until nothing is loaded any more, and no longer than this.
    "--virtual-time-budget=20000",
    "--dump-dom",
];
/// A browser that starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a visit.
struct Visit {
    /// The page as scripts left it.
    page: String,
    /// What the browser wrote on its console: errors of scripts, and what a policy forbade.
    console: Vec<String>,
    /// All URLs that were asked for.
    asked: BTreeSet<String>,
}

async fn visit(url: &str, folder: &Path) -> Visit {
    let network = folder.join("network.json");
    let mut browser = Command::new(BROWSER);
    browser
        .args(WORDS)
        .arg(format!("--user-data-dir={}", folder.join("browser").display()))
        .arg(format!("--log-net-log={}", network.display()))
        .arg(url)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, browser.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("no {BROWSER}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let network: Value = serde_json::from_slice(&std::fs::read(network).unwrap()).unwrap();
    let urls =
        network["events"].as_array().unwrap().iter().filter_map(|event| event["params"]["url"].as_str());
    Visit {
        page: String::from_utf8(output.stdout).unwrap(),
        console: said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect(),
        asked: urls.map(str::to_owned).collect(),
    }
}

#[tokio::test]
async fn people_are_shown_all_operations_and_nobody_but_the_service_is_asked() {
    let (directory, service) = service().await;
    let Visit { page, console, asked } = visit(&format!("{}/docs", service.base), directory.path()).await;
    assert_eq!(console, Vec::<String>::new());
    let paths = ["/docs", "/docs/page.css", "/docs/page.js", "/openapi.json"];
    assert_eq!(asked, paths.iter().map(|path| format!("{}{path}", service.base)).collect());

    let description: Value = service.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    let mut operations = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let head =
                format!(">{method}</span><code>{path}</code> {}<", operation["summary"].as_str().unwrap());
            assert!(page.contains(&head), "{head} is not in {page}");
            operations += 1;
        }
    }
    assert!(operations >= 10, "{operations} operations");
    assert_eq!(page.matches(">Try it</button>").count(), operations);
}

#[tokio::test]
async fn a_page_that_fails_and_reaches_elsewhere_would_be_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let elsewhere = format!("http://localhost:{}/other.js", address.port());
    let page = format!("<!doctype html><script src=\"{elsewhere}\"></script><script>missing()</script>");
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                page.len()
            );
            // A browser opens connections that it does not use.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let Visit { console, asked, .. } = visit(&format!("http://{address}/"), folder.path()).await;
    serving.abort();
    assert!(console.iter().any(|line| line.contains("missing is not defined")), "{console:?}");
    assert!(asked.contains(&elsewhere), "{asked:?}");
}
