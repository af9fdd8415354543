//! What an operator and a scraper see of the agent: metrics and health on one address, the status on loopback.
//!
//! `/metrics`, `/healthz` and `/readyz` may be reached from elsewhere and name no more than series do; `/status` names every
//! workload of the node and is served on a loopback address only, to requests that name a loopback host (a web page
//! elsewhere could otherwise read it through a name that it resolves to 127.0.0.1). Nothing here depends on the authority.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use ensign_daemon::{Readiness, http};
use ensign_pki::SharedClock;
use prometheus_client::registry::Registry;

use crate::rotation::{Handle, WorkloadUid};

mod advice;
mod page;
mod status;

/// One bound socket, as its owner reports it.
#[derive(Clone, Debug)]
pub struct SocketLine {
    /// Whose.
    pub workload: WorkloadUid,
    /// Where.
    pub path: PathBuf,
    /// Open connections.
    pub connections: usize,
    /// Open streams.
    pub streams: usize,
}

/// Tells the sockets as they are now.
pub type Sockets = Arc<dyn Fn() -> Vec<SocketLine> + Send + Sync>;

/// Where the status comes from.
#[derive(Clone)]
pub struct StatusSource {
    /// The entries.
    pub rotation: Handle,
    /// The sockets.
    pub sockets: Sockets,
    /// What is missing to be ready.
    pub readiness: Readiness,
    /// The time.
    pub clock: SharedClock,
    /// The authority's address, for people.
    pub authority: String,
}

/// Metrics and health.
pub fn admin_router(registry: Registry, readiness: Readiness) -> Router {
    http::metrics_router(Arc::new(registry)).merge(http::health_router(readiness))
}

/// The status, for people and as JSON.
pub fn status_router(source: StatusSource) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/status") }))
        .route("/status", get(status))
        .with_state(source)
        .layer(middleware::from_fn(only_loopback_hosts))
}

async fn status(State(source): State<StatusSource>, uri: Uri, headers: HeaderMap) -> Response {
    let status = status::Status::of(&source);
    let mut response = if wants_json(uri.query(), &headers) {
        axum::Json(status).into_response()
    } else {
        ([(header::CONTENT_TYPE, HTML)], page::render(&status)).into_response()
    };
    response.headers_mut().extend(GUARDS);
    response
}

fn wants_json(query: Option<&str>, headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut parameters = query.unwrap_or_default().split('&');
    match parameters.find_map(|parameter| parameter.strip_prefix("format=")) {
        Some(format) => format == "json",
        None => accept.contains("application/json") && !accept.contains("text/html"),
    }
}

async fn only_loopback_hosts(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) if names_loopback(host) => next.run(request).await,
        _ => (StatusCode::FORBIDDEN, "ask for this page as localhost or 127.0.0.1\n").into_response(),
    }
}

fn names_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

const HTML: &str = "text/html; charset=utf-8";
/// No scripts, nothing from elsewhere, no frame, no copy in a cache.
const GUARDS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("localhost", true)]
    #[test_case("localhost:9403", true)]
    #[test_case("127.0.0.1:9403", true)]
    #[test_case("[::1]:9403", true)]
    #[test_case("evil.example:9403", false)]
    #[test_case("127.0.0.1.evil.example", false)]
    #[test_case("10.0.0.1", false)]
    #[test_case("", false; "empty")]
    fn hosts(host: &str, loopback: bool) {
        assert_eq!(names_loopback(host), loopback);
    }

    #[test_case(Some("format=json"), "text/html", true; "asked for in the address")]
    #[test_case(None, "application/json", true; "asked for in the header")]
    #[test_case(None, "text/html,application/json;q=0.5", false; "a browser")]
    #[test_case(None, "*/*", false; "anything")]
    fn form(query: Option<&str>, accept: &str, json: bool) {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]);
        assert_eq!(wants_json(query, &headers), json);
    }
}
