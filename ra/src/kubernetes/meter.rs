//! What every request to an API server passes: a bound on its time, a count, and an eye on Retry-After.
//!
//! A watch is bounded until its first byte only. Requests are counted by verb and resource as RBAC and the audit log
//! name them, so that the three can be held against each other.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::timeout;
use tower::{BoxError, Layer, Service};

use super::error::Throttled;
use super::follow::WatchTrouble;

/// Counts of requests and the state of watches. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KubernetesMetrics {
    requests: Family<RequestLabels, Counter>,
    watches: Family<WatchLabels, Gauge>,
    errors: Family<WatchErrorLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    watch: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchErrorLabels {
    watch: String,
    trouble: &'static str,
}

/// The layer.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    metrics: KubernetesMetrics,
    limit: Duration,
}

/// The layer around a service.
#[derive(Debug, Clone)]
pub(super) struct Metered<S> {
    inner: S,
    meter: Meter,
}

// === impl KubernetesMetrics ===

impl KubernetesMetrics {
    /// Registers under `…_kubernetes_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("kubernetes");
        own.register(
            "requests",
            "Requests to API servers by verb, resource and HTTP status (none: no answer)",
            metrics.requests.clone(),
        );
        own.register(
            "watch_synced",
            "1 while a watch is complete and alive, 0 while it is being brought back",
            metrics.watches.clone(),
        );
        own.register(
            "watch_errors",
            "Times that a watch broke and was begun again, by what ailed it (gone: 410, so it listed again)",
            metrics.errors.clone(),
        );
        metrics
    }

    pub(super) fn watch_synced(&self, watch: &str, synced: bool) {
        let labels = WatchLabels {
            watch: watch.to_owned(),
        };
        self.watches.get_or_create(&labels).set(i64::from(synced));
    }

    /// A watch that nobody needs any more has no state.
    pub(super) fn watch_gone(&self, watch: &str) {
        let labels = WatchLabels {
            watch: watch.to_owned(),
        };
        self.watches.remove(&labels);
        for trouble in WatchTrouble::ALL {
            self.errors.remove(&WatchErrorLabels {
                watch: watch.to_owned(),
                trouble: trouble.as_str(),
            });
        }
    }

    pub(super) fn watch_broke(&self, watch: &str, trouble: WatchTrouble) {
        let labels = WatchErrorLabels {
            watch: watch.to_owned(),
            trouble: trouble.as_str(),
        };
        self.errors.get_or_create(&labels).inc();
    }

    fn answered(&self, (verb, resource): (&'static str, String), code: Option<StatusCode>) {
        let code = code.map_or_else(|| "none".to_owned(), |code| code.as_str().to_owned());
        self.requests
            .get_or_create(&RequestLabels { verb, resource, code })
            .inc();
    }
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(metrics: KubernetesMetrics, limit: Duration) -> Self {
        Self { metrics, limit }
    }
}

impl<S> Layer<S> for Meter {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Metered {
            inner,
            meter: self.clone(),
        }
    }
}

impl<S, In, Out> Service<Request<In>> for Metered<S>
where
    S: Service<Request<In>, Response = Response<Out>, Error: Into<BoxError>>,
    S::Future: Send + 'static,
    Out: Send + 'static,
{
    type Response = Response<Out>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Out>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let what = verb_and_resource(request.method(), request.uri());
        let Meter { metrics, limit } = self.meter.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            match timeout(limit, answer).await {
                Ok(Ok(response)) => {
                    metrics.answered(what, Some(response.status()));
                    pass_or_throttle(response)
                }
                Ok(Err(error)) => {
                    metrics.answered(what, None);
                    Err(error.into())
                }
                Err(_) => {
                    metrics.answered(what, None);
                    Err(format!("no answer within {limit:?}").into())
                }
            }
        })
    }
}

/// 429 always asks to come back; 503 does where it says when, otherwise the server is away.
fn pass_or_throttle<B>(response: Response<B>) -> Result<Response<B>, BoxError> {
    let seconds = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = match (response.status(), seconds) {
        (StatusCode::TOO_MANY_REQUESTS, seconds) => seconds.unwrap_or(1),
        (StatusCode::SERVICE_UNAVAILABLE, Some(seconds)) => seconds,
        _ => return Ok(response),
    };
    Err(Box::new(Throttled {
        retry_after: Duration::from_secs(retry_after),
        message: response.status().to_string(),
    }))
}

/// As the API server itself reads a path: `/api/v1/…` or `/apis/GROUP/VERSION/…`, then perhaps `namespaces/NS`, then
/// resource, name, subresource. Names never become part of a label.
fn verb_and_resource(method: &Method, uri: &http::Uri) -> (&'static str, String) {
    let mut parts = uri.path().split('/').filter(|part| !part.is_empty()).peekable();
    match parts.next() {
        Some("api") => _ = parts.next(),
        Some("apis") => _ = (parts.next(), parts.next()),
        _ => return ("get", "none".to_owned()),
    }
    let mut resource = parts.next().unwrap_or("none");
    if resource == "namespaces" {
        let namespace = parts.next();
        // A namespace itself is an object like any other.
        if let Some(inside) = parts.next() {
            resource = inside;
        } else {
            return (verb(method, uri, namespace.is_some()), resource.to_owned());
        }
    }
    let name = parts.next();
    let verb = verb(method, uri, name.is_some());
    match parts.next() {
        Some(subresource) => (verb, format!("{resource}/{subresource}")),
        None => (verb, resource.to_owned()),
    }
}

fn verb(method: &Method, uri: &http::Uri, named: bool) -> &'static str {
    let watching = uri
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"));
    match *method {
        Method::GET if watching => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(
        "POST",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests?",
        "create",
        "certificatesigningrequests"
    )]
    #[test_case(
        "PUT",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval",
        "update",
        "certificatesigningrequests/approval"
    )]
    #[test_case(
        "GET",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests?&watch=true&timeoutSeconds=290",
        "watch",
        "certificatesigningrequests"
    )]
    #[test_case("GET", "/api/v1/namespaces/istio-system/configmaps/istio", "get", "configmaps")]
    #[test_case("GET", "/api/v1/namespaces", "list", "namespaces")]
    #[test_case("GET", "/api/v1/namespaces/foo", "get", "namespaces")]
    #[test_case(
        "DELETE",
        "/apis/cert-manager.io/v1/namespaces/a/certificaterequests/b",
        "delete",
        "certificaterequests"
    )]
    #[test_case("GET", "/version", "get", "none"; "outside of any group")]
    fn a_request_is_counted_as_the_audit_log_names_it(method: &str, path: &str, verb: &str, resource: &str) {
        let method = method.parse().unwrap();
        assert_eq!(
            verb_and_resource(&method, &path.parse().unwrap()),
            (verb, resource.to_owned())
        );
    }

    #[test_case(429, Some("7"), Some(7); "too many")]
    #[test_case(429, None, Some(1); "too many, without a time")]
    #[test_case(429, Some("Thu, 01 Jan"), Some(1); "a date, which Kubernetes does not send")]
    #[test_case(503, Some("2"), Some(2); "away for a while")]
    #[test_case(503, None, None; "away")]
    #[test_case(200, Some("2"), None; "fine")]
    fn answers_that_ask_to_come_back(code: u16, header: Option<&str>, seconds: Option<u64>) {
        let mut response = Response::builder().status(code);
        if let Some(value) = header {
            response = response.header("retry-after", value);
        }
        let outcome = pass_or_throttle(response.body(()).unwrap());
        let seen = outcome
            .err()
            .map(|error| error.downcast::<Throttled>().unwrap().retry_after.as_secs());
        assert_eq!(seen, seconds);
    }
}
