//! Every "no" of this service: one type decides on status, code, text and headers of each.

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::tokens::BadToken;
use crate::access::{Scope, Unproven};
use crate::profile::FieldFault;
use crate::store::StoreError;

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// RFC 5789 §3.1.
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// Why a request is not answered as it hoped.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No route matches the path.
    #[error("nothing is served at this path")]
    NoRoute,
    /// The path is there, but not for this method. `Allow` is set by the router.
    #[error("the path does not take this method")]
    Method,
    /// Query parameters that the path does not take, or with values that it does not take.
    #[error("{0}")]
    Query(String),
    /// `Idempotency-Key` is not a key.
    #[error("Idempotency-Key must be one text of 1 to 255 visible ASCII characters")]
    Key,
    /// The field that names the caller does not.
    #[error("the field that says who asks must be one text of 1 to 255 visible ASCII characters")]
    Caller,
    /// Nobody has said who asks, and this scope is needed.
    #[error("say who you are: this needs the scope {}", .0.word())]
    NoProof(Scope),
    /// What was shown does not prove who asks.
    #[error(transparent)]
    Unproven(Unproven),
    /// Who asks does not have the scope that is needed.
    #[error("this needs the scope {}", .0.word())]
    Scope(Scope),
    /// What is given as the id of an event is none.
    #[error("Last-Event-ID and after take the id of an event, and after takes `oldest`")]
    EventId,
    /// Events behind the one that was named are not kept any more, or it never was.
    #[error("events behind this one are forgotten, or were never told: read the users anew")]
    EventsGone,
    /// As many as may do so follow the events already.
    #[error("too many follow the events already")]
    Streams,
    /// As many imports and exports as may run do so already.
    #[error("too many imports and exports are running")]
    Bulk,
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    Syntax(String),
    /// The body stopped short, or its framing is wrong.
    #[error("the body could not be read")]
    Body,
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    SlowBody,
    /// The body is larger than this many bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The body is of a type that the method does not take; this one it would.
    #[error("the body must be {0}, without content coding")]
    MediaType(&'static str),
    /// The body is JSON, but not what a user is made of.
    #[error("the body does not describe a user")]
    Invalid(Vec<FieldFault>),
    /// `If-Match` or `If-None-Match` does not hold.
    #[error("the user is not in the state that If-Match or If-None-Match asks for")]
    Precondition,
    /// A request with this key is being answered at this moment.
    #[error("a request with this Idempotency-Key is being answered; come again for its outcome")]
    KeyInUse,
    /// The store objects.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The request took longer than requests may.
    #[error("the answer was not ready in time")]
    Timeout,
    /// The handler panicked.
    #[error("the handler panicked: {0}")]
    Panic(String),
    /// Something of ours that cannot fail did.
    #[error("an answer could not be written")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// The status of the answer and the stable code of the failure.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoRoute => (StatusCode::NOT_FOUND, "not-found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::Query(_) => (StatusCode::BAD_REQUEST, "invalid-query"),
            Self::Key => (StatusCode::BAD_REQUEST, "invalid-idempotency-key"),
            Self::Caller | Self::Unproven(Unproven::Caller) => (StatusCode::BAD_REQUEST, "invalid-caller"),
            Self::NoProof(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Unproven(Unproven::Token(BadToken::Unavailable)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "identity-unavailable")
            }
            Self::Unproven(Unproven::Secret) => (StatusCode::UNAUTHORIZED, "invalid-gateway-secret"),
            Self::Unproven(Unproven::Ambiguous) => (StatusCode::BAD_REQUEST, "ambiguous-credentials"),
            Self::Unproven(Unproven::Token(_)) => (StatusCode::UNAUTHORIZED, "invalid-token"),
            Self::Scope(_) => (StatusCode::FORBIDDEN, "insufficient-scope"),
            Self::EventId => (StatusCode::BAD_REQUEST, "invalid-event-id"),
            Self::EventsGone => (StatusCode::GONE, "events-gone"),
            Self::Streams => (StatusCode::SERVICE_UNAVAILABLE, "too-many-streams"),
            Self::Bulk => (StatusCode::SERVICE_UNAVAILABLE, "too-many-bulk"),
            Self::Syntax(_) => (StatusCode::BAD_REQUEST, "invalid-json"),
            Self::Body => (StatusCode::BAD_REQUEST, "incomplete-body"),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, "slow-body"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-user"),
            Self::Precondition => (StatusCode::PRECONDITION_FAILED, "precondition-failed"),
            Self::Store(StoreError::KeyReused) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused")
            }
            Self::KeyInUse => (StatusCode::CONFLICT, "idempotency-key-in-use"),
            Self::Store(StoreError::NoSuchUser) => (StatusCode::NOT_FOUND, "user-not-found"),
            Self::Store(StoreError::EmailTaken) => (StatusCode::CONFLICT, "email-taken"),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Self::Store(StoreError::Busy(_)) => (StatusCode::SERVICE_UNAVAILABLE, "store-busy"),
            Self::Store(StoreError::Away(_) | StoreError::NoServer | StoreError::Unsure(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "store-away")
            }
            Self::Store(StoreError::Broken(_) | StoreError::Migrate(_) | StoreError::Directory(_))
            | Self::Panic(_)
            | Self::Write(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// What a caller is told. Of our own faults, nothing but that they are ours.
    fn problem(&self) -> Problem {
        let (status, code) = self.kind();
        let detail = (!status.is_server_error()).then(|| self.to_string());
        let errors = if let Self::Invalid(faults) = self { faults.clone() } else { Vec::new() };
        Problem {
            r#type: format!("/problems/{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail,
            errors,
        }
    }

    /// The one header that tells a caller how to do better, if there is one.
    fn remedy(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::MediaType(accepted) => {
                let name = if *accepted == super::body::MERGE_PATCH { ACCEPT_PATCH } else { ACCEPT };
                Some((name, HeaderValue::from_static(accepted)))
            }
            Self::NoProof(_) | Self::Scope(_) | Self::Unproven(Unproven::Token(_) | Unproven::Secret)
                if self.kind().0 != StatusCode::SERVICE_UNAVAILABLE =>
            {
                HeaderValue::try_from(self.challenge()).ok().map(|challenge| (WWW_AUTHENTICATE, challenge))
            }
            Self::KeyInUse
            | Self::Unproven(Unproven::Token(BadToken::Unavailable))
            | Self::Streams
            | Self::Bulk
            | Self::Timeout
            | Self::Store(
                StoreError::Busy(_) | StoreError::Away(_) | StoreError::NoServer | StoreError::Unsure(_),
            ) => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => None,
        }
    }

    /// What a caller is asked to show (RFC 6750 §3). Who has shown nothing is not told of an error.
    fn challenge(&self) -> String {
        let error = |code| format!("Bearer error=\"{code}\", error_description=\"{self}\"");
        match self {
            Self::NoProof(scope) => format!("Bearer scope=\"{}\"", scope.word()),
            Self::Scope(scope) => format!("{}, scope=\"{}\"", error("insufficient_scope"), scope.word()),
            _ => error("invalid_token"),
        }
    }

    /// Tells the operator of what is not the caller's doing.
    fn log(&self, code: &'static str, status: StatusCode) {
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(code, error = chain(self), "request failed");
        } else if status.is_server_error() {
            tracing::warn!(code, error = chain(self), "request put off");
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code) = self.kind();
        self.log(code, status);
        // A problem is made of texts and numbers, which always have a JSON form.
        let body = serde_json::to_vec(&self.problem()).unwrap_or_default();
        let headers = [(CONTENT_TYPE, PROBLEM_JSON), (CACHE_CONTROL, "no-store")];
        let mut response = (status, headers, body).into_response();
        response.headers_mut().extend(self.remedy());
        response
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some libraries say their cause themselves.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// An answer that is not what was asked for (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem: a stable relative reference, `/problems/` and the code.
    #[schema(format = "uri-reference", examples("/problems/email-taken"))]
    r#type: String,
    /// The status in words.
    #[schema(value_type = String, examples("Conflict"))]
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599, examples(409))]
    status: u16,
    /// What kind of problem, for programs: the last part of `type`.
    #[schema(value_type = String, examples("email-taken"))]
    code: &'static str,
    /// What went wrong this time, for people. Absent when the fault is the service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("another user has this email"))]
    detail: Option<String>,
    /// What is wrong with the body, place by place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldFault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: Failure) -> (StatusCode, String) {
        let (status, problem) = (failure.kind().0, failure.problem());
        drop(failure.into_response());
        (status, serde_json::to_string(&problem).unwrap())
    }

    #[test]
    fn our_own_faults_tell_nothing_of_their_cause() {
        let cause = || sqlx::Error::Protocol("no such table: users".into());
        let ours = [
            Failure::Store(StoreError::Broken(cause())),
            Failure::Store(StoreError::Away(cause())),
            Failure::Store(StoreError::Busy(cause())),
            Failure::Panic("index out of bounds".into()),
        ];
        for failure in ours {
            let (status, text) = told(failure);
            assert!(status.is_server_error());
            assert!(!text.contains("detail") && !text.contains("users") && !text.contains("index"), "{text}");
        }
    }

    #[test]
    fn what_may_pass_says_when_to_come_again() {
        let busy = Failure::Store(StoreError::Busy(sqlx::Error::PoolTimedOut)).into_response();
        assert_eq!(busy.headers()[RETRY_AFTER], "1");
        assert!(Failure::NoRoute.into_response().headers().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn a_chain_of_causes_is_one_line() {
        let failure = Failure::Store(StoreError::Broken(sqlx::Error::Protocol("cut".into())));
        assert!(chain(&failure).starts_with("the database is broken: "), "{}", chain(&failure));
    }
}
