//! Compressing answers on their way to a client: those that pass by piece by piece, stored ones once for all.

use std::io;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header, request};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};
use tokio::sync::Semaphore;

use crate::cache::stored::{Body, Stored};
use crate::cache::{parts, vary};
use crate::exchange::Exchange;
use crate::forward::compress::{self, Choice, Coding, Compress, Encoder};

/// A stored body up to this many bytes is compressed where it is: that takes less than to hand it over.
const SHORT: u64 = 16 << 10;

/// Longer ones are, by as many threads as there are cores: who waits for a turn keeps nobody from another answer.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

fn rules(exchange: &Exchange) -> Option<&Compress> {
    exchange.route.as_ref()?.compress.as_ref()
}

/// What becomes of an answer of `length` bytes, if that is known; `is_kept`: it is stored, for all whom it suits.
pub(super) fn choose(
    request: &request::Parts,
    exchange: &Exchange,
    status: StatusCode,
    answer: &HeaderMap,
    length: Option<u64>,
    is_kept: bool,
) -> Choice {
    let Some(rules) = rules(exchange) else { return Choice::Untouched };
    let certificate = exchange.asked.as_ref().is_some_and(|asked| asked.certificate.is_some());
    let guarded = compress::is_coaxable(&request.headers, certificate)
        && !compress::is_public(answer)
        && !(is_kept && is_for_all(exchange, answer));
    rules.choose(&request.headers, status, answer, length, guarded)
}

/// What becomes of a stored answer.
pub(super) fn choose_stored(request: &request::Parts, exchange: &Exchange, stored: &Stored) -> Choice {
    if rules(exchange).is_none() || !matches!(stored.body, Body::Whole(_)) {
        return Choice::Untouched;
    }
    let length = Some(parts::length(&stored.body));
    choose(request, exchange, stored.status, &stored.headers, length, true)
}

/// Whether what is stored for the request is stored for all clients alike.
fn is_for_all(exchange: &Exchange, answer: &HeaderMap) -> bool {
    let rules = exchange.cache.as_ref().map(|asking| &asking.rules);
    rules.is_some_and(|rules| !rules.tells_callers_apart()) && !vary::names(answer, &header::AUTHORIZATION)
}

// ── answers that pass by ────────────────────────────────────────────────────────────────────────────────────────────

/// The head of an answer from a server: says what becomes of its body, and begins that.
pub(super) fn begin(request: &RequestHeader, exchange: &mut Exchange, answer: &mut ResponseHeader) {
    if rules(exchange).is_none() {
        return;
    }
    if answer.status == StatusCode::NOT_MODIFIED {
        // It does not tell of what: its client does, by the tag that it got.
        if compress::holds_weak(&request.headers, &answer.headers) {
            let fields = answer.headers.clone();
            compress::weaken(answer, &fields);
            compress::vary(answer, &fields);
        }
        return;
    }
    let length = content_length(&answer.headers);
    let choice = choose(request, exchange, answer.status, &answer.headers, length, false);
    let is_head = request.method == Method::HEAD;
    exchange.encoder = match choice {
        Choice::Untouched => return,
        Choice::In(coding) if !is_head => Encoder::start(coding, length),
        Choice::In(_) | Choice::Plain => None,
    };
    let fields = answer.headers.clone();
    match choice {
        Choice::In(coding) if is_head || exchange.encoder.is_some() => {
            compress::mark(answer, &fields, coding);
            count(exchange, choice);
        }
        _ => compress::vary(answer, &fields),
    }
}

fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A piece of its body passes.
pub(super) fn pass(exchange: &mut Exchange, body: &mut Option<Bytes>, end: bool) -> Result<()> {
    let Some(encoder) = &mut exchange.encoder else { return Ok(()) };
    let mut out = match body.take().filter(|piece| !piece.is_empty()) {
        Some(piece) if end => BytesMut::from(encoder.piece(&piece).map_err(failed)?),
        Some(piece) => {
            *body = Some(encoder.piece(&piece).map_err(failed)?);
            return Ok(());
        }
        None => BytesMut::new(),
    };
    if end {
        out.extend_from_slice(&finish(exchange)?);
        *body = Some(out.freeze());
    }
    Ok(())
}

/// What is left of a body at its end; nothing where it is not compressed, or was at its end before.
pub(super) fn finish(exchange: &mut Exchange) -> Result<Bytes> {
    exchange.encoder.take().map_or(Ok(Bytes::new()), |encoder| encoder.finish().map_err(failed))
}

pub(super) fn failed(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::InternalError, "while compressing an answer", error).into_in()
}

/// Counts an answer that goes in a coding.
pub(super) fn count(exchange: &Exchange, choice: Choice) {
    if let (Some(route), Choice::In(coding)) = (&exchange.route, choice) {
        route.meters.compressed(coding.name(), coding.place());
    }
}

// ── stored answers ──────────────────────────────────────────────────────────────────────────────────────────────────

/// A stored body in a coding.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// It is smaller so.
    Smaller(Bytes),
    /// It is not, and goes as it is.
    Useless,
}

impl Form {
    /// An empty form stands for one that is no smaller.
    fn of(form: &Bytes) -> Self {
        if form.is_empty() { Self::Useless } else { Self::Smaller(form.clone()) }
    }
}

/// The form of a stored body in this coding, if somebody wanted it before.
pub(super) fn known(stored: &Stored, coding: Coding) -> Option<Form> {
    stored.forms.get(coding.place()).map(Form::of)
}

/// The form of a stored body in this coding: made now if nobody wanted it before, and then kept. Whether it was made now.
pub(super) async fn form(stored: &Stored, coding: Coding) -> Result<(Form, bool)> {
    let (form, made) = stored.forms.get_or_make(coding.place(), async || make(stored, coding).await).await?;
    Ok((Form::of(&form), made))
}

async fn make(stored: &Stored, coding: Coding) -> Result<Bytes> {
    let Body::Whole(pieces) = &stored.body else { return Ok(Bytes::new()) };
    let encoded = if pieces.len() <= SHORT {
        compress::encode(coding, pieces.segments()).map_err(failed)?
    } else {
        let pieces = pieces.clone();
        // Closed by nobody.
        let _turn = TURNS.acquire().await.ok();
        let encoding = tokio::task::spawn_blocking(move || compress::encode(coding, pieces.segments()));
        encoding.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked))).map_err(failed)?
    };
    Ok(if (encoded.len() as u64) < pieces.len() { encoded } else { Bytes::new() })
}
