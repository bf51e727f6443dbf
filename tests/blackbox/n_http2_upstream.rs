//! HTTP/2 to servers: streams that share connections, how both end, and what passes through them.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Notify};

use crate::support::second::{client, whole};
use crate::support::{
    Certs, Client, Gateway, Issuer, PATIENCE, Raw, Second, Wire, eventually, group, h2 as frames, must, raw,
};

const URL: &str = "https://a.test/";

/// A gateway before this server, which speaks HTTP/2; `settings` are lines of its upstream.
async fn before(origin: std::net::SocketAddr, certs: &Certs, settings: &str) -> Gateway {
    let settings = format!("protocol = \"http2\"\noutlier_detection = false\n{settings}");
    Gateway::start(&group(certs, &[origin.to_string()], &settings)).await
}

fn certs() -> Certs {
    Certs::for_names(&["a.test"])
}

/// A client that speaks HTTP/2 by hand.
async fn second(gateway: &Gateway, certs: &Certs) -> SendRequest<Bytes> {
    client(raw::tls("h2", gateway.https(), "a.test", certs).await).await
}

// ── streams and connections ─────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn fifty_requests_at_once_share_one_connection() {
    let (certs, all) = (certs(), Arc::new(Barrier::new(50)));
    let origin = Second::start(move |mut asked| {
        let all = all.clone();
        async move {
            all.wait().await; // nobody is answered before the last has come
            let path = asked.path();
            asked.say(path);
        }
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    let asked: Vec<_> = (0..50).map(|n| tokio::spawn(client.get_later(&format!("{URL}{n}")))).collect();
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(must("an answer", asked).await.unwrap().text(), format!("/{n}"));
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn where_a_server_takes_few_streams_there_are_more_connections() {
    let (certs, all) = (certs(), Arc::new(Barrier::new(25)));
    let origin = Second::allowing(10, move |mut asked| {
        let all = all.clone();
        async move {
            all.wait().await;
            asked.say("well");
        }
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    // The first tells how many it takes.
    let first = tokio::spawn(client.get_later(URL));
    eventually(PATIENCE, "it is asked", async || origin.connections() == 1).await;
    let rest: Vec<_> = (0..24).map(|_| tokio::spawn(client.get_later(URL))).collect();
    for asked in rest.into_iter().chain([first]) {
        assert_eq!(must("an answer", asked).await.unwrap().text(), "well");
    }
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_nobody_needs_is_closed() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move { asked.say("well") }).await;
    let gateway = before(origin.address(), &certs, "timeouts = { keep_alive = \"100ms\" }").await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "well");
    eventually(PATIENCE, "it is closed", async || origin.ended() == 1).await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "well");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn servers_are_told_farewell_at_the_end() {
    let certs = certs();
    let farewells = Arc::new(Notify::new());
    let told = farewells.clone();
    let origin = Second::by_connection(10, move |_, mut connection| {
        let told = told.clone();
        async move {
            while let Some(asked) = connection.accept().await {
                let (_, mut respond) = asked.expect("no connection that is cut off");
                respond.send_response(Response::new(()), true).unwrap();
            }
            told.notify_one();
        }
    })
    .await;
    let mut gateway = before(origin.address(), &certs, "").await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.status, 200);
    assert!(gateway.stop().await.success());
    must("the farewell", farewells.notified()).await;
}

// ── GOAWAY and RST_STREAM ───────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn after_a_farewell_what_is_under_way_ends_and_the_next_goes_elsewhere() {
    let certs = certs();
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes) = (begun.clone(), go.clone());
    let origin = Second::by_connection(10, move |number, mut connection| {
        let (begins, goes) = (begins.clone(), goes.clone());
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/slow" {
                    connection.graceful_shutdown();
                    let (begins, goes) = (begins.clone(), goes.clone());
                    tokio::spawn(async move {
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data("one ".into(), false).unwrap();
                        begins.notify_one();
                        goes.notified().await;
                        body.send_data(format!("on {number}").into(), true).unwrap();
                    });
                } else {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(format!("on {number}").into(), true).unwrap();
                }
            }
        }
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    let slow = tokio::spawn(client.get_later(&format!("{URL}slow")));
    must("the answer begins", begun.notified()).await;
    eventually(PATIENCE, "the farewell is heard", async || client.get(URL).await.text() == "on 2").await;
    go.notify_one();
    assert_eq!(must("its end", slow).await.unwrap().text(), "one on 1");
    eventually(PATIENCE, "the first connection ends", async || origin.ended() == 1).await;
}

/// Frames as they are; each connection is a preface, SETTINGS and one request, and then what `last` says.
async fn leaving(times: usize) -> (std::net::SocketAddr, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&[0, 0, 0, frames::SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                stream.read_exact(&mut payload).await.unwrap();
                if head[3] == frames::HEADERS {
                    break;
                }
            }
            // No stream was looked at.
            stream
                .write_all(&[0, 0, 8, frames::GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        // The last is served.
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut served = 0;
        while let Some(Ok((mut request, mut respond))) = connection.accept().await {
            served += 1;
            tokio::spawn(async move {
                let (body, _) = whole(request.body_mut()).await;
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                answer.send_data(body.into(), true).unwrap();
            });
        }
        served
    });
    (address, serving)
}

#[tokio::test]
async fn what_a_server_has_not_looked_at_is_sent_again_whatever_its_method() {
    let certs = certs();
    let (address, serving) = leaving(1).await;
    let mut gateway = before(address, &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    let answer = client.send(client.request("POST", URL).body("payment")).await;
    assert_eq!((answer.status, answer.text()), (200, "payment"));
    gateway.stop().await;
    assert_eq!(must("the end", serving).await.unwrap(), 1);
}

#[tokio::test]
async fn what_a_server_refuses_is_sent_again_whatever_its_method() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        if asked.before == 0 {
            return asked.respond.send_reset(Reason::REFUSED_STREAM);
        }
        let (body, _) = asked.body().await;
        asked.say(String::from_utf8(body).unwrap());
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    let answer = client.send(client.request("POST", URL).body("payment")).await;
    assert_eq!((answer.status, answer.text()), (200, "payment"));
    assert_eq!(origin.connections(), 1, "the connection goes on");
}

#[tokio::test]
async fn a_reset_has_the_reason_that_goes_with_its_code() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let reason: u32 = asked.path()[1..].parse().unwrap();
        asked.respond.send_reset(Reason::from(reason));
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    for (code, status, reason) in [
        (Reason::REFUSED_STREAM, 503, "upstream-refused"),
        (Reason::INTERNAL_ERROR, 502, "upstream-broke-off"),
        (Reason::CANCEL, 502, "upstream-broke-off"),
        (Reason::PROTOCOL_ERROR, 502, "upstream-invalid"),
        (Reason::HTTP_1_1_REQUIRED, 502, "upstream-invalid"),
    ] {
        let url = format!("{URL}{}", u32::from(code));
        let answer = client.send(client.request("POST", &url).body("x")).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &reason.into()), "{code:?}");
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_body_breaks_the_answer_off() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let mut body = asked.begin(Response::new(()));
        body.send_data("half".into(), false).unwrap();
        asked.body().await; // the client has the half by then
        body.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let mut client = second(&gateway, &certs).await;

    let request = Request::post(URL).body(()).unwrap();
    let (answer, mut sends) = client.send_request(request, false).unwrap();
    let mut body = must("the head", answer).await.unwrap().into_body();
    assert_eq!(must("a piece", body.data()).await.unwrap().unwrap(), "half");
    sends.send_data(Bytes::new(), true).unwrap();
    assert!(must("the end", body.data()).await.unwrap().is_err());
    assert_eq!(origin.connections(), 1);
}

/// Whatever its code: `NO_ERROR` ends what is left of the request, not an answer that has not come to its end.
#[tokio::test]
async fn a_reset_without_an_error_is_no_end_of_a_body_and_nothing_of_it_is_stored() {
    let (certs, seen) = (certs(), Arc::new(Notify::new()));
    let goes_on = seen.clone();
    let origin = Second::start(move |mut asked| {
        let goes_on = goes_on.clone();
        async move {
            let fresh = Response::builder().header("cache-control", "max-age=60").body(()).unwrap();
            let mut body = asked.begin(fresh);
            body.send_data(format!("half of {}", asked.before).into(), false).unwrap();
            goes_on.notified().await;
            body.send_reset(Reason::NO_ERROR);
        }
    })
    .await;
    for road in ["", "cache = true\n"] {
        let config = group(&certs, &[origin.address().to_string()], "protocol = \"http2\"") + road;
        let gateway = Gateway::start(&config).await;
        let mut client = second(&gateway, &certs).await;
        for _ in 0..2 {
            let (answer, _) = client.send_request(Request::get(URL).body(()).unwrap(), true).unwrap();
            let mut body = must("the head", answer).await.unwrap().into_body();
            let half = must("a piece", body.data()).await.unwrap().unwrap();
            assert!(half.starts_with(b"half of"), "{half:?}");
            seen.notify_one();
            assert!(must("the end", body.data()).await.unwrap().is_err(), "{road}");
        }
        assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 2, "{road}");
    }
}

#[tokio::test]
async fn a_server_of_http1_is_none_of_http2() {
    let certs = certs();
    let origin =
        Wire::saying("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let gateway = before(origin.address(), &certs, "").await;
    let answer = Client::http2(&gateway, &certs).get(URL).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (502, &"upstream-invalid".into()));
}

// ── what passes ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_request_is_said_as_http2_says_it() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let head = &asked.request;
        let fields = head.headers();
        let cookies: Vec<_> = fields.get_all("cookie").iter().map(|value| value.to_str().unwrap()).collect();
        let seen = format!(
            "{} {} te={:?} upgrade={} host={} cookies={}",
            head.method(),
            head.uri(),
            fields.get("te"),
            fields.contains_key("upgrade"),
            fields.contains_key("host"),
            cookies.join("|"),
        );
        asked.say(seen);
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;

    let mut raw = Raw::tls(gateway.https(), "a.test", &certs).await;
    let ask = "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, TE\r\nUpgrade: websocket\r\n\
               TE: trailers\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n";
    let answer = raw.ask(ask).await;
    // Cookies are put together on the way, as servers of HTTP/1 need it; servers of HTTP/2 take both.
    let expected = "GET http://a.test/a?b=c te=Some(\"trailers\") upgrade=false host=false cookies=a=b; c=d";
    assert_eq!(answer.text(), expected);
    assert!(answer.field("via").is_some_and(|via| via.starts_with("2 ")), "{:?}", answer.field("via"));
}

#[tokio::test]
async fn both_sides_speak_at_once_piece_by_piece_and_end_apart() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let interim = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        asked.respond.send_informational(interim).unwrap();
        let mut says = asked.begin(Response::new(()));
        let body = asked.request.body_mut();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            says.send_data(piece, false).unwrap();
        }
        let said = body.trailers().await.unwrap().unwrap_or_default();
        says.send_data("last".into(), false).unwrap(); // after the client's end
        says.send_trailers(said).unwrap();
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let mut client = second(&gateway, &certs).await;

    let request = Request::post(URL).body(()).unwrap();
    let (mut answer, mut says) = client.send_request(request, false).unwrap();
    let interim = must("an interim answer", std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
    let interim = interim.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), &interim.headers()["link"]), (103, &"</a.css>".parse().unwrap()));
    let mut body = must("the head", answer).await.unwrap().into_body();
    for n in 0..20 {
        let word = format!("word {n}");
        says.send_data(word.clone().into(), false).unwrap();
        assert_eq!(must("its echo", body.data()).await.unwrap().unwrap(), word);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "20".parse().unwrap());
    trailers.insert("content-length", "3".parse().unwrap());
    says.send_trailers(trailers).unwrap();
    let (last, trailers) = whole(&mut body).await;
    assert_eq!(last, b"last");
    let trailers = trailers.expect("what the client had behind its body comes back");
    assert!(trailers["x-sum"] == "20" && trailers.len() == 1, "{trailers:?}");
}

#[tokio::test]
async fn nobody_says_behind_a_body_who_it_is() {
    let (certs, issuer) = (certs(), Issuer::start().await);
    let origin = Second::start(|mut asked| async move {
        let (_, said) = asked.body().await;
        let mut says = asked.begin(Response::new(()));
        says.send_trailers(said.unwrap_or_default()).unwrap();
    })
    .await;
    let own = issuer.provider("headers = { x-user-id = \"sub\" }")
        + "[auth.partners.api_key]\nfile = \"keys.toml\"\n";
    let settings = "protocol = \"http2\"\n";
    let config = group(&certs, &[origin.address().to_string()], settings) + &own;
    // A proxy whose word is believed before a body is not believed behind one.
    for trusted in ["", "trusted_proxies = [\"127.0.0.1/32\"]\n"] {
        let config = format!("{trusted}{config}")
            .replace("[routes.all]", "[routes.all]\nauth = { providers = [\"partners\", \"idp\"] }");
        let gateway = Gateway::start_with(&config, &[("keys.toml", PARTNER)]).await;
        let mut client = second(&gateway, &certs).await;
        let request = Request::post(URL).header("x-api-key", "abc").body(()).unwrap();
        let (answer, mut says) = client.send_request(request, false).unwrap();
        says.send_data("it".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        for name in
            ["x-sum", "x-user-id", "x_user_id", "x-real-ip", "client-cert", "x-ssl-client-dn", "x-api-key"]
        {
            trailers.insert(name, "root".parse().unwrap());
        }
        says.send_trailers(trailers).unwrap();
        let (_, came) = whole(must("the head", answer).await.unwrap().body_mut()).await;
        let came = came.expect("what was no claim goes on");
        assert_eq!(came.keys().collect::<Vec<_>>(), ["x-sum"]);
    }
}

/// The SHA-256 of `abc`.
const PARTNER: &str =
    "[partner]\nsha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";

#[tokio::test]
async fn clients_of_http1_get_what_is_beside_an_answer() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let interim = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        asked.respond.send_informational(interim).unwrap();
        let mut says = asked.begin(Response::new(()));
        says.send_data("hello".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "5".parse().unwrap());
        says.send_trailers(trailers).unwrap();
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    for (te, expected) in [
        ("TE: trailers\r\nConnection: TE\r\n", "5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"),
        ("", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        client.send(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{te}\r\n")).await;
        let interim = client.head().await;
        assert!(interim.starts_with("HTTP/1.1 103 ") && interim.contains("link: </a.css>"), "{interim}");
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        assert_eq!(String::from_utf8(client.bytes(expected.len()).await).unwrap(), expected);
    }
}

#[tokio::test]
async fn an_answer_that_comes_early_is_whole() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        // It lets go of the request unread, which is a reset with `NO_ERROR` (RFC 9113 section 8.1).
        asked.say("enough");
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let mut client = second(&gateway, &certs).await;

    let (answer, mut says) = client.send_request(Request::post(URL).body(()).unwrap(), false).unwrap();
    says.send_data("begin".into(), false).unwrap();
    let mut answer = must("the head", answer).await.unwrap();
    assert_eq!(whole(answer.body_mut()).await.0, b"enough");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_nobody_else() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        if asked.path() != "/large" {
            return asked.say("small");
        }
        let mut body = asked.begin(Response::new(()));
        for _ in 0..64 {
            body.reserve_capacity(64 << 10);
            while body.capacity() < 64 << 10 {
                let Some(Ok(_)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { return };
            }
            body.send_data(vec![b'x'; 64 << 10].into(), false).unwrap();
        }
        body.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    // Each on a connection of its own to the gateway, and all on one to the server.
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let mut client = second(&gateway, &certs).await;
        let request = Request::get(format!("{URL}large")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        stuck.push((must("the head", answer).await.unwrap().into_body(), client));
    }

    for _ in 0..20 {
        assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "small");
    }
    assert_eq!(origin.connections(), 1);
    for (mut body, _client) in stuck {
        assert_eq!(whole(&mut body).await.0.len(), 4 << 20, "nothing is lost");
    }
}

#[tokio::test]
async fn checks_speak_what_requests_do() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let path = asked.path();
        asked.say(path);
    })
    .await;
    let gateway =
        before(origin.address(), &certs, "health = { path = \"/health\", interval = \"100ms\" }").await;
    gateway.ready().await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "/");
    assert_eq!(gateway.server(&origin.address().to_string()).await["state"], "up");
}

#[tokio::test]
async fn uploads_of_http1_clients_and_stored_answers_pass_as_well() {
    let certs = certs();
    let origin = Second::start(|mut asked| async move {
        let (body, _) = asked.body().await;
        let fresh = Response::builder().header("cache-control", "max-age=60").body(()).unwrap();
        let mut answer = asked.begin(fresh);
        answer.send_data(format!("{} bytes", body.len()).into(), true).unwrap();
    })
    .await;
    let address = origin.address();
    let config = group(&certs, &[address.to_string()], "protocol = \"http2\"")
        + "max_body = \"8MiB\"\ncache = { ttl = \"1m\" }\n";
    let gateway = Gateway::start(&config).await;
    let client = Client::http1(&gateway, &certs);

    let answer = client.send(client.request("PUT", URL).body(vec![b'x'; 3 << 20])).await;
    assert_eq!(answer.text(), format!("{} bytes", 3 << 20));
    for expected in ["fwd=uri-miss", "hit"] {
        let answer = client.get(URL).await;
        assert_eq!(answer.text(), "0 bytes");
        let status = answer.field("cache-status").unwrap();
        assert!(status.contains(expected), "{status}");
    }
}
