//! The hook's HTTPS server: one `AdmissionReview` in, one out.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{State, Verdict};

/// Serves until it is dropped. A connection that fails is the API server's to open again.
pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(request, &state).await) }
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

async fn answer(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let review = async {
        let body = request.into_body().collect().await?.to_bytes();
        anyhow::Ok(serde_json::from_slice::<Value>(&body)?)
    };
    let (status, body) = match review.await {
        Ok(mut review) => {
            let request = review["request"].take();
            let uid = request["uid"].clone();
            let response = match state.judge(request).await {
                Verdict::Allow => json!({ "uid": uid, "allowed": true }),
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
