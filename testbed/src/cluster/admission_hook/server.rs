//! A webhook's HTTPS server: one `AdmissionReview` in, one out.

use std::{convert::Infallible, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

/// What becomes of requests.
pub(crate) trait Judge: Send + Sync + 'static {
    /// Of this one.
    fn judge(&self, request: Value) -> impl Future<Output = Verdict> + Send;
}

/// The end of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes on as it is.
    Allow,
    /// It goes on with this JSON patch, from a mutating webhook.
    Change(Value),
    /// It is refused.
    Deny {
        /// HTTP status.
        code: u16,
        /// What its user reads.
        message: String,
    },
}

/// Serves until it is dropped. A connection that fails is the API server's to open again.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, judge: Arc<impl Judge>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, judge) = (tls.clone(), Arc::clone(&judge));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| {
                let judge = Arc::clone(&judge);
                async move { Ok::<_, Infallible>(answer(request, &*judge).await) }
            });
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, judge: &impl Judge) -> Response<Full<Bytes>> {
    let review = async {
        let body = request.into_body().collect().await?.to_bytes();
        anyhow::Ok(serde_json::from_slice::<Value>(&body)?)
    };
    let (status, body) = match review.await {
        Ok(mut review) => {
            let request = review["request"].take();
            let uid = request["uid"].clone();
            let response = match judge.judge(request).await {
                Verdict::Allow => json!({ "uid": uid, "allowed": true }),
                Verdict::Change(patch) => json!({
                    "uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()),
                }),
                Verdict::Deny { code, message } => {
                    json!({ "uid": uid, "allowed": false, "status": { "code": code, "message": message } })
                }
            };
            let review =
                json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
            (StatusCode::OK, review.to_string())
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
