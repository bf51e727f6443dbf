//! The REST API: its routes, one line per path, and what every request passes on the way to them.

pub mod users;
pub mod audit;
pub mod events;
pub mod bulk;
pub mod admit;
pub mod caller;
pub mod failure;
pub mod body;
pub mod conditional;
pub mod idempotency;
pub mod last_seen;
pub mod observe;
pub mod document;
pub mod docs;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Access;
use crate::feed::Feed;
use crate::metrics::Meters;
use crate::store::Store;
use failure::Failure;
use idempotency::KeysInUse;

/// Every path with its methods. Router and OpenAPI document are both made from this list.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(document::bare())
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::show, users::replace, users::patch, users::remove))
        .routes(routes!(bulk::import))
        .routes(routes!(bulk::export))
        .routes(routes!(audit::trail))
        .routes(routes!(events::follow))
        .routes(routes!(observe::healthz))
        .routes(routes!(observe::readyz))
        .routes(routes!(observe::metrics))
        .routes(routes!(observe::openapi))
}

/// What handlers share.
pub struct App {
    store: Arc<Store>,
    feed: Arc<Feed>,
    /// One for each more who may follow the events.
    streams: Arc<Semaphore>,
    /// One for each more import or export that may run.
    bulk: Arc<Semaphore>,
    meters: Arc<Meters>,
    access: Access,
    settings: Settings,
    keys: KeysInUse,
    document: Bytes,
}

/// What an operator decides about answers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `X-Served-By` of every answer.
    pub name: HeaderValue,
    /// `Cache-Control` of what may be kept.
    pub cache_control: HeaderValue,
    /// Longest time from the head of a request to the head of its answer.
    pub request_timeout: Duration,
    /// The field in which a gateway says who asks, if there is one.
    pub caller_header: Option<HeaderName>,
    /// How many may follow the events at a time.
    pub max_event_streams: usize,
}

/// The API over a store, ready to serve.
pub fn router(
    store: Arc<Store>,
    feed: Arc<Feed>,
    meters: Arc<Meters>,
    access: Access,
    settings: Settings,
) -> Result<Router, serde_json::Error> {
    let document = Bytes::from(document::whole().to_pretty_json()?);
    let (router, _) = routes().split_for_parts();
    let streams = Arc::new(Semaphore::new(settings.max_event_streams));
    let bulk = Arc::new(Semaphore::new(bulk::AT_A_TIME));
    let keys = KeysInUse::default();
    let app = Arc::new(App { store, feed, streams, bulk, meters, access, settings, keys, document });
    Ok(guard(docs::add_to(router), &app).with_state(app))
}

/// Puts around all routes what every request passes, innermost first.
fn guard(router: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    let meters = app.meters.clone();
    router
        .fallback(|| async { Failure::NoRoute })
        .method_not_allowed_fallback(|| async { Failure::Method })
        .layer(from_fn_with_state(app.clone(), admit::admit))
        .layer(from_fn_with_state(app.clone(), observe::in_time))
        .layer(CatchPanicLayer::custom(move |panic: Box<dyn Any + Send>| {
            meters.panics.inc();
            Failure::Panic(message(&*panic)).into_response()
        }))
        .layer(from_fn_with_state(app.clone(), observe::observe))
}

/// The text that a panic was raised with.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// Holds a request to having no query: a parameter that is not known was meant to do something.
pub struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => Err(Failure::Query("this path takes no query parameters".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::failure::PROBLEM_JSON;
    use super::*;
    use crate::feed::Retention;
    use crate::store;

    const RETENTION: Retention =
        Retention { events: Duration::from_secs(60), unsent: Duration::from_secs(60) };

    async fn app(directory: &tempfile::TempDir, request_timeout: Duration) -> Arc<App> {
        let meters = Arc::new(Meters::new());
        let location = format!("sqlite://{}/users.db", directory.path().display()).parse().unwrap();
        let settings = store::Settings {
            location,
            replicas: Vec::new(),
            max_lag: Duration::from_secs(1),
            read_connections: 1,
            write_connections: 1,
            patience: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(1),
        };
        let store = Arc::new(Store::open(&settings, &meters).await.unwrap());
        Arc::new(App {
            feed: Arc::new(Feed::start(store.clone(), RETENTION, meters.clone())),
            streams: Arc::new(Semaphore::new(1)),
            bulk: Arc::new(Semaphore::new(1)),
            store,
            meters,
            access: Access::Open,
            settings: Settings {
                name: HeaderValue::from_static("test"),
                cache_control: HeaderValue::from_static("no-cache"),
                request_timeout,
                caller_header: None,
                max_event_streams: 1,
            },
            keys: KeysInUse::default(),
            document: Bytes::new(),
        })
    }

    async fn ask(app: &Arc<App>, handler: axum::routing::MethodRouter<Arc<App>>) -> (StatusCode, String) {
        let router = guard(Router::new().route("/", handler), app).with_state(app.clone());
        let response = router.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["x-served-by"], "test");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
        let status = response.status();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn panic() {
        panic!("secret of the handler");
    }

    #[tokio::test]
    async fn a_panic_is_a_bare_500_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let app = app(&directory, Duration::from_secs(5)).await;
        let (status, body) = ask(&app, get(panic)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.contains("\"internal\"") && !body.contains("secret"), "{body}");
        assert_eq!(app.meters.panics.get(), 1);
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let app = app(&directory, Duration::from_millis(20)).await;
        let (status, body) = ask(&app, get(std::future::pending::<()>)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("\"timeout\""), "{body}");
    }
}
