//! What becomes of a request, row by row as `docs/resilience.md` has it: what the client gets, the reason in the log, and what
//! is counted. A fleet of servers that fail in every way, each alone with its upstream, so that no other helps.
//!
//! The rows that are not here are played with their metrics where more than a server by HTTP/1 is needed: certificates and TLS
//! in `n_upstream_tls`, HTTP/2 in `n_http2_upstream` and `n_http2_lost`, a breaker that is open in `m_breaker`, servers that
//! are down in `l_health` and `l_names`, drained or without a turn in `m_reasons`. What reaches the client of a body that
//! breaks off is in `n_answers`, another server that helps in `m_retry`.

use serde_json::Value;

use crate::support::{Answer, Certs, Client, Gateway, Line, Origin, Silent, Wire, group};

const URL: &str = "https://a.test/";

/// How a server ends a connection after what it had to say.
#[derive(Clone, Copy)]
enum End {
    Reset,
    Farewell,
    /// Not at all.
    Silence,
}

/// What the client gets.
#[derive(Clone, Copy)]
enum Gets {
    /// A "no" of the gateway with this status.
    No(u16),
    /// This answer of the server.
    Answer(u16, &'static str),
    /// One that breaks off.
    Part,
}

/// A row of the table.
struct Row {
    server: &'static str,
    settings: &'static str,
    gets: Gets,
    /// In the log, and where the gateway says "no", to the client.
    reason: Option<&'static str>,
    /// Tries by outcome: `error`, `ok`.
    tries: [u64; 2],
    /// The cause of the retry, if there was one.
    retry: Option<&'static str>,
}

/// What most rows have in common: one try, which fails.
const ROW: Row = Row { server: "", settings: "", gets: Gets::Part, reason: None, tries: [1, 0], retry: None };

/// Has a gateway before this server, asks once, and looks at all that the row says.
async fn play(row: &Row, server: String, certs: &Certs) {
    let settings = format!("outlier_detection = false\n{}", row.settings);
    let config = format!("log.access = \"json\"\n{}", group(certs, &[server], &settings));
    let gateway = Gateway::start(&config).await;

    let answer = Answer::try_of(Client::http2(&gateway, certs).request("GET", URL)).await;

    let (name, reason) = (row.server, row.reason.map_or(Value::Null, Value::from));
    match (row.gets, answer) {
        (Gets::No(status), Ok(answer)) => {
            assert_eq!((answer.status, &answer.json()["reason"]), (status, &reason), "{name}");
        }
        (Gets::Answer(status, text), Ok(answer)) => {
            assert_eq!((answer.status, answer.text()), (status, text), "{name}");
        }
        (Gets::Part, Err(_)) => {}
        (_, answer) => panic!("{name}: {answer:?}"),
    }
    let line = gateway.access_line_of("/", |_| true).await;
    assert_eq!(
        (&line["reason"], &line["attempts"]),
        (&reason, &Value::from(row.tries[0] + row.tries[1])),
        "{name}: {line}"
    );
    for (outcome, times) in ["error", "ok"].into_iter().zip(row.tries) {
        let series = format!("tidegate_upstream_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(gateway.count(&series).await, times, "{name}: {outcome}");
    }
    let retries = gateway.count("tidegate_upstream_retries_total").await;
    assert_eq!(retries, u64::from(row.retry.is_some()), "{name}");
    if let Some(cause) = row.retry {
        let series = format!("tidegate_upstream_retries_total{{reason=\"{cause}\"}}");
        assert_eq!(gateway.count(&series).await, 1, "{name}: {cause}");
    }
    assert_eq!(gateway.count("tidegate_refusals_total").await, u64::from(row.reason.is_some()), "{name}");
    if let Some(reason) = row.reason {
        let series = format!("tidegate_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(gateway.count(&series).await, 1, "{name}: {reason}");
    }
}

#[tokio::test]
async fn servers_that_cannot_be_reached() {
    let certs = Certs::for_names(&["a.test"]);
    let mut gone = Origin::start("gone").await;
    gone.stop().await;
    let refuses = Row {
        server: "refuses connections",
        gets: Gets::No(502),
        reason: Some("upstream-unreachable"),
        tries: [2, 0],
        retry: Some("connect"),
        ..ROW
    };
    play(&refuses, gone.address().to_string(), &certs).await;

    let silent = Silent::start().await;
    let settings = "timeouts = { connect = \"100ms\" }";
    let row = Row {
        server: "does not answer to connections",
        settings,
        gets: Gets::No(504),
        reason: Some("connect-timeout"),
        ..refuses
    };
    play(&row, silent.address.clone(), &certs).await;
}

/// A server that says this to each request, and ends the connection so.
async fn saying(says: &'static str, end: End) -> Wire {
    Wire::start(move |_, mut line: Line| async move {
        if line.request().await.is_none() {
            return;
        }
        line.say(says).await;
        match end {
            End::Reset => line.reset(),
            End::Farewell => {}
            End::Silence => line.closed().await,
        }
    })
    .await
}

#[tokio::test]
async fn servers_that_give_no_answer() {
    let certs = Certs::for_names(&["a.test"]);
    let broke_off = Row {
        gets: Gets::No(502),
        reason: Some("upstream-broke-off"),
        tries: [2, 0],
        retry: Some("reset"),
        ..ROW
    };
    for (row, says, end) in [
        (Row { server: "resets before its answer", ..broke_off }, "", End::Reset),
        (Row { server: "resets within its head", ..broke_off }, "HTTP/1.1 200 OK\r\nContent-Le", End::Reset),
        (
            Row { server: "closes within its head", ..broke_off },
            "HTTP/1.1 200 OK\r\nContent-Le",
            End::Farewell,
        ),
        (
            Row { server: "says what is not HTTP", reason: Some("upstream-invalid"), ..broke_off },
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            End::Silence,
        ),
        (
            Row {
                server: "is silent",
                settings: "timeouts = { first_byte = \"200ms\" }",
                gets: Gets::No(504),
                reason: Some("upstream-timeout"),
                ..ROW
            },
            "",
            End::Silence,
        ),
        (
            Row {
                server: "is silent, which is worth another try",
                settings: "timeouts = { first_byte = \"200ms\" }\nretries = { on = [\"timeout\"] }",
                gets: Gets::No(504),
                reason: Some("upstream-timeout"),
                retry: Some("timeout"),
                ..broke_off
            },
            "",
            End::Silence,
        ),
    ] {
        play(&row, saying(says, end).await.address().to_string(), &certs).await;
    }
}

#[tokio::test]
async fn servers_whose_answers_are_not_what_they_say() {
    let certs = Certs::for_names(&["a.test"]);
    let part = Row { gets: Gets::Part, reason: Some("upstream-broke-off"), ..ROW };
    let (short, long) = (
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives and more",
    );
    for (row, says, end) in [
        (Row { server: "resets within its body", ..part }, short, End::Reset),
        (Row { server: "announces more than it sends", ..part }, short, End::Farewell),
        (
            Row {
                server: "falls silent within its body",
                settings: "timeouts = { idle = \"200ms\" }",
                reason: Some("upstream-timeout"),
                ..part
            },
            short,
            End::Silence,
        ),
        (
            Row {
                server: "sends more than it announces",
                gets: Gets::Answer(200, "fives"),
                reason: None,
                tries: [0, 1],
                ..ROW
            },
            long,
            End::Silence,
        ),
    ] {
        let server = saying(says, end).await;
        play(&row, server.address().to_string(), &certs).await;
        assert_eq!(server.connections(), 1, "{}", row.server);
    }
}

#[tokio::test]
async fn servers_that_say_no_themselves() {
    let certs = Certs::for_names(&["a.test"]);
    let busy = Row { gets: Gets::Answer(503, "busy"), ..ROW };
    let once = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let longer = "HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 4\r\n\r\nbusy";
    for (row, says) in [
        (Row { server: "answers 503", ..busy }, once),
        (
            Row {
                server: "answers 503 on each try",
                settings: ON_503,
                tries: [2, 0],
                retry: Some("status"),
                ..busy
            },
            once,
        ),
        (
            Row { server: "asks to be left alone for longer than there is time", settings: ON_503, ..busy },
            longer,
        ),
    ] {
        play(&row, saying(says, End::Farewell).await.address().to_string(), &certs).await;
    }

    let row = Row {
        server: "answers 503 once",
        settings: ON_503,
        gets: Gets::Answer(200, "well"),
        tries: [1, 1],
        retry: Some("status"),
        ..ROW
    };
    let server = Wire::start(move |number, mut line: Line| async move {
        line.request().await;
        let says = if number == 1 { once } else { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell" };
        line.say(says).await;
    })
    .await;
    play(&row, server.address().to_string(), &certs).await;
}

const ON_503: &str = "retries = { on = [\"503\"] }";
