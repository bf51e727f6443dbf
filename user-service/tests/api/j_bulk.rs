//! Many users at once.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::stream::Reader;
use crate::support::{SOON, Service, directory, header, problem, program, service, user};

const NDJSON: &str = "application/x-ndjson";

/// A line for each of these numbers.
fn lines(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        writeln!(text, "{}", user(&format!("user{number}"))).unwrap();
    }
    text
}

fn parse(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn import(service: &Service, text: String) -> Vec<Value> {
    let request = service.request(Method::POST, "/users:import").header("content-type", NDJSON);
    let answer = request.body(text).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, NDJSON));
    parse(&answer.text().await.unwrap())
}

async fn export(service: &Service) -> Vec<Value> {
    let answer = service.get("/users:export").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, NDJSON));
    assert_eq!(header(&answer, "cache-control"), "no-store");
    parse(&answer.text().await.unwrap())
}

#[tokio::test]
async fn what_is_imported_is_exported_told_and_in_the_trail() {
    let (_directory, service) = service().await;
    let mut reader = Reader::follow(&service, None).await;
    let told = import(&service, lines(0..1203)).await;
    let tally = |lines: usize| json!({ "lines": lines, "created": lines, "refused": 0 });
    let end = json!({ "done": true, "lines": 1203, "created": 1203, "refused": 0 });
    assert_eq!(told, [tally(500), tally(1000), tally(1203), end]);

    let users = export(&service).await;
    assert_eq!(users.len(), 1203);
    for (number, user) in users.iter().enumerate() {
        assert_eq!((&user["name"], &user["version"]), (&format!("user{number}").into(), &1.into()));
    }
    let events = reader.take(1203).await;
    assert!(events.iter().zip(&users).all(|(told, user)| told.event["data"] == *user), "in their order");
    let trail = service.get(&format!("/users/{}/audit", users[1202]["id"].as_str().unwrap()));
    let trail: Value = trail.send().await.unwrap().json().await.unwrap();
    assert_eq!(trail["entries"][0]["action"], "created", "{trail}");
}

#[tokio::test]
async fn a_batch_with_a_fault_creates_nothing_and_its_faults_are_told_by_line() {
    let (_directory, service) = service().await;
    service.create("user600").await;
    let mut text = lines(0..400);
    // Blank lines are none, but count where they are.
    text.push_str("\n{\"email\":\"nobody\",\"age\":3}\nno json\n");
    write!(text, "{{\"name\":\"{}\"}}\n{}", "x".repeat(70_000), lines(0..1)).unwrap();
    text.push_str(&lines(404..496 + 4));
    text.push_str(&lines(500..1000));
    // The last one has no end of a line.
    text.push_str(lines(1000..1010).trim_end());
    let told = import(&service, text).await;
    let errors = |batch: &Value| {
        let errors = batch["errors"].as_array().cloned().unwrap_or_default();
        let told = errors.iter().map(|error| {
            let text = |field: &str| error[field].as_str().unwrap().to_owned();
            (error["line"].as_u64().unwrap(), text("pointer"), text("code"))
        });
        told.collect::<Vec<_>>()
    };
    let fault = |line, pointer: &str, code: &str| (line, pointer.to_owned(), code.to_owned());
    assert_eq!(
        errors(&told[0]),
        [
            fault(402, "#/email", "invalid"),
            fault(402, "#/name", "required"),
            fault(402, "#/age", "unknown"),
            fault(403, "#", "syntax"),
            fault(404, "#", "too-long"),
        ]
    );
    assert_eq!(errors(&told[1]), [fault(602, "#/email", "taken")], "{}", told[1]);
    assert_eq!(told[2], json!({ "lines": 1010, "created": 10, "refused": 1000 }));
    assert_eq!(told[3], json!({ "done": true, "lines": 1010, "created": 10, "refused": 1000 }));
    assert_eq!(export(&service).await.len(), 11);
    // An address that comes twice in one batch is taken the second time.
    let told = import(&service, lines(0..1) + &lines(0..1)).await;
    assert_eq!(errors(&told[0]), [fault(2, "#/email", "taken")]);
}

#[tokio::test]
async fn the_answer_comes_while_the_request_is_sent() {
    let (_directory, service) = service().await;
    let mut stream = TcpStream::connect(service.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /users:import HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {NDJSON}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    let chunk = |text: String| format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all((head + &chunk(lines(0..500))).as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.contains("\"created\":500") {
        answer += &part(&mut stream).await.expect("the answer goes on");
    }
    assert!(!answer.contains("done"), "{answer}");
    stream.write_all((chunk(lines(500..501)) + "0\r\n\r\n").as_bytes()).await.unwrap();
    while let Some(part) = part(&mut stream).await {
        answer += &part;
    }
    assert!(answer.contains("\"done\":true") && answer.contains("\"created\":501"), "{answer}");
}

/// What comes next; none at the end.
async fn part(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = [0; 4096];
    let count = timeout(SOON, stream.read(&mut bytes)).await.expect("a part in time").unwrap();
    (count > 0).then(|| String::from_utf8(bytes[..count].to_vec()).unwrap())
}

#[tokio::test]
async fn what_is_no_import_is_refused() {
    let (_directory, service) = service().await;
    let json = service.request(Method::POST, "/users:import").json(&user("ada")).send().await.unwrap();
    assert_eq!(header(&json, "accept"), NDJSON);
    problem(json, 415, "unsupported-media-type").await;
    problem(service.get("/users:export?limit=1").send().await.unwrap(), 400, "invalid-query").await;
    problem(service.get("/users:import").send().await.unwrap(), 405, "method-not-allowed").await;
}

#[tokio::test]
async fn only_so_many_run_at_a_time() {
    let (_directory, service) = service().await;
    let address = service.base.trim_start_matches("http://").to_owned();
    let mut running = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /users:import HTTP/1.1\r\nhost: x\r\ncontent-type: {NDJSON}\r\ncontent-length: 9\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(part(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
        running.push(stream);
    }
    let refused = service.get("/users:export").send().await.unwrap();
    assert_eq!(header(&refused, "retry-after"), "1");
    problem(refused, 503, "too-many-bulk").await;
    drop(running);
    crate::support::eventually("there is room again", || async {
        service.get("/users:export").send().await.unwrap().status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_file_is_imported_by_the_program() {
    let directory = directory().await;
    let file = directory.path().join("users.ndjson");
    std::fs::write(&file, lines(0..600)).unwrap();
    let run = async || {
        let mut command = program(&directory);
        command.arg("import").arg(&file).stderr(std::process::Stdio::piped());
        let output = command.output().await.unwrap();
        let tally: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), tally, String::from_utf8(output.stderr).unwrap())
    };
    let (code, tally, told) = run().await;
    assert_eq!((code, tally), (Some(0), json!({ "lines": 600, "created": 600, "refused": 0 })), "{told}");
    let (code, tally, told) = run().await;
    assert_eq!((code, tally), (Some(1), json!({ "lines": 600, "created": 0, "refused": 600 })));
    assert!(told.contains("line 1: #/email another user has this email"), "{told}");
    let service = Service::start(&directory, "").await;
    assert_eq!(export(&service).await.len(), 600);
}
