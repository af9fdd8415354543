//! An API server that answers as a test says, below the same layer as a real one: for faults (Retry-After, silence,
//! nonsense) that a real one cannot be made to show.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use tower::BoxError;

use super::client::Cluster;

/// What a request is answered with.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: String,
}

/// Every request so far: method, path and body.
pub(crate) type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A client of a [`cluster`].
pub(crate) fn client<F>(answer: F) -> (Client, Asked)
where
    F: Fn(&str, usize) -> BoxFuture<'static, Option<Answer>> + Send + Sync + 'static,
{
    let (cluster, asked) = cluster(answer);
    (cluster.client(), asked)
}

/// A server that answers by `answer`, which is told method and path and how many requests there were before; `None` is a
/// broken connection.
pub(crate) fn cluster<F>(answer: F) -> (Cluster, Asked)
where
    F: Fn(&str, usize) -> BoxFuture<'static, Option<Answer>> + Send + Sync + 'static,
{
    let (asked, answer) = (Asked::default(), Arc::new(answer));
    let seen = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
        async move {
            let what = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect_bytes().await?;
            let number = {
                let mut seen = seen.lock();
                seen.push((what.clone(), String::from_utf8_lossy(&body).into_owned()));
                seen.len() - 1
            };
            let answer = answer(&what, number).await.ok_or("connection reset")?;
            let mut response = Response::builder().status(answer.code);
            if let Some(seconds) = answer.retry_after {
                response = response.header("retry-after", seconds);
            }
            Ok::<_, BoxError>(response.body(Body::from(answer.body.into_bytes()))?)
        }
    });
    (Cluster::answered_by(service, "us"), asked)
}

// === impl Answer ===

impl Answer {
    pub(crate) fn ok(body: impl ToString) -> Self {
        Self {
            code: 200,
            retry_after: None,
            body: body.to_string(),
        }
    }

    /// As the API server says no.
    pub(crate) fn no(code: u16, reason: &str) -> Self {
        let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": "no", "reason": reason, "code": code});
        Self {
            code,
            ..Self::ok(status)
        }
    }

    pub(crate) fn after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }
}
