//! The client of transcripts: it sends a request as written and reads whatever comes.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::script::Message;
use super::words::Meaning;
use super::{Place, Speaks, Stage};

/// How long an answer may take. The origin of a refresh in the background waits for it, so that an answer which
/// waits for the origin never comes.
const LONGEST: Duration = Duration::from_secs(8);

/// What came.
#[derive(Debug, Default)]
pub(super) struct Got {
    /// Heads before the answer.
    pub(super) interim: Vec<(u16, HeaderMap)>,
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    pub(super) body: String,
    /// Whether the body broke off.
    pub(super) broke: bool,
}

impl Got {
    /// As a transcript would have it.
    pub(super) fn lines(&self) -> String {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("        < {name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
        };
        let fields: String = self.fields.iter().map(field).collect();
        let body: String = self.body.chars().take(300).collect();
        let broke = if self.broke { "        < (breaks off)\n" } else { "" };
        format!("        < {}\n{fields}        <\n        < {body}\n{broke}", self.status)
    }
}

/// The lines of a field, as text.
pub(super) fn all<'a>(fields: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let text = |value: &'a HeaderValue| std::str::from_utf8(value.as_bytes()).unwrap_or("(no text)");
    fields.get_all(name).iter().map(text).collect()
}

impl Stage {
    /// Sends a request; an error says why nothing came.
    pub(super) async fn ask(
        &self,
        request: &Message,
        place: &Place,
        meaning: &Meaning<'_>,
    ) -> Result<Got, String> {
        let (method, rest) = request.first.split_once(' ').unwrap_or((&request.first, ""));
        let host = request.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = host.map_or("a.test", |(_, host)| host.as_str());
        let mut asks = self.client.request(method, &format!("https://{host}{}{rest}", place.base));
        for (name, value) in &request.fields {
            if !name.eq_ignore_ascii_case("host") {
                asks = asks.header(name.as_str(), meaning.of(value));
            }
        }
        if let Some(body) = &request.body {
            asks = asks.body(body.clone());
        }
        let answer = asks.timeout(LONGEST).send().await.map_err(|error| format!("{error:?}"))?;
        let mut got =
            Got { status: answer.status().as_u16(), fields: answer.headers().clone(), ..Got::default() };
        match answer.bytes().await {
            Ok(body) => got.body = String::from_utf8_lossy(&body).into_owned(),
            Err(_) => got.broke = true,
        }
        Ok(got)
    }

    /// The same, heads before the answer included.
    pub(super) async fn ask_closely(&self, request: &Message, place: &Place) -> Result<Got, String> {
        let target =
            format!("{}{}", place.base, request.first.trim_start_matches(char::is_alphabetic).trim());
        match self.speaks {
            Speaks::Http1 => Ok(self.closely_by_http1(&target).await),
            Speaks::Http2 => self.closely_by_http2(&target).await.map_err(|error| error.to_string()),
        }
    }

    async fn closely_by_http1(&self, target: &str) -> Got {
        let mut raw = super::super::Raw::tls(self.gateway.https(), "a.test", &self.certs).await;
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let mut got = Got::default();
        loop {
            let (head, body) = raw.answer().await;
            let (status, fields) = parts(&head);
            if status / 100 != 1 {
                (got.status, got.fields) = (status, fields);
                got.body = String::from_utf8_lossy(&body).into_owned();
                return got;
            }
            got.interim.push((status, fields));
        }
    }

    async fn closely_by_http2(&self, target: &str) -> Result<Got, h2::Error> {
        let stream = super::super::raw::tls("h2", self.gateway.https(), "a.test", &self.certs).await;
        let (client, connection) = h2::client::handshake(stream).await?;
        let driving = tokio::spawn(connection);
        let request = http::Request::get(format!("https://a.test{target}")).body(()).unwrap();
        let (mut answer, _) = client.ready().await?.send_request(request, true)?;
        let mut got = Got::default();
        while let Some(head) = std::future::poll_fn(|context| answer.poll_informational(context)).await {
            let head = head?;
            got.interim.push((head.status().as_u16(), head.headers().clone()));
        }
        let answer = answer.await?;
        (got.status, got.fields) = (answer.status().as_u16(), answer.headers().clone());
        let mut body = answer.into_body();
        while let Some(piece) = body.data().await {
            got.body.push_str(&String::from_utf8_lossy(&piece?));
        }
        driving.abort();
        Ok(got)
    }
}

/// A head of HTTP/1.1 taken apart.
fn parts(head: &str) -> (u16, HeaderMap) {
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let fields = head.lines().skip(1).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.parse::<HeaderName>().ok()?, value.trim().parse::<HeaderValue>().ok()?))
    });
    (status, fields.collect())
}
