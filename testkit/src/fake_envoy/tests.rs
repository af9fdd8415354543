//! The fake against a small SDS server of its own, and its node against the size of a real one.

use std::convert::Infallible;
use std::time::Duration;

use ensign_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use ensign_proto::envoy::service::discovery::v3::DiscoveryResponse;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::server::{Grpc, StreamingService};

use super::*;

#[test]
fn the_node_is_as_large_as_envoys_and_readable() {
    let node = node("id", Some("foo"));
    assert!((60_000..63_000).contains(&node.len()), "{} bytes", node.len());
    let facts = ensign_proto::node::read(&node).unwrap();
    assert_eq!((facts.id.as_str(), facts.cert_signer.as_deref()), ("id", Some("foo")));
}

#[tokio::test]
async fn nobody_listening_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(FakeEnvoy::connect(folder.path().join("none.sock")).await.is_err());
}

/// Answers each request with one response that tells what was asked.
#[derive(Clone)]
struct Echo;

impl StreamingService<DiscoveryRequest> for Echo {
    type Response = DiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DiscoveryResponse, tonic::Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<DiscoveryRequest>>) -> Self::Future {
        let mut requests = request.into_inner();
        let (sender, responses) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let secret = Secret {
                    name: request.resource_names.join(","),
                    r#type: None,
                };
                let resource = ensign_proto::Any {
                    type_url: SECRET_TYPE_URL.into(),
                    value: secret.encode_to_vec().into(),
                };
                let told = format!(
                    "{}|{}|{}|{}",
                    request.node.len(),
                    request.version_info,
                    request.response_nonce,
                    request.error_detail.is_some()
                );
                let response = DiscoveryResponse {
                    version_info: "v".into(),
                    resources: vec![resource],
                    type_url: SECRET_TYPE_URL.into(),
                    nonce: told,
                };
                if sender.send(Ok(response)).await.is_err() {
                    break;
                }
            }
        });
        std::future::ready(Ok(tonic::Response::new(ReceiverStream::new(responses))))
    }
}

fn serve(socket: &Path) -> JoinSet<()> {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request| async move {
                let codec = tonic_prost::ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default();
                Ok::<_, Infallible>(Grpc::new(codec).streaming(Echo, request).await)
            });
            let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            connections.spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    server
}

#[tokio::test]
async fn speaks_as_envoy_does() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sds.sock");
    let _server = serve(&socket);
    let patience = crate::patience();
    let envoy = FakeEnvoy::connect(&socket).await.unwrap();
    let size = envoy.node().len();

    let mut stream = envoy.subscribe_holding(&["default"], "held").await;
    let first = stream.next(patience).await.unwrap();
    assert_eq!(first.nonce, format!("{size}|held||false"));
    assert_eq!(first.only().name, "default");

    stream.nack(&first, "bad").await;
    let nacked = stream.next(patience).await.unwrap();
    assert_eq!(
        nacked.nonce,
        format!("0|held|{}|true", first.nonce),
        "a NACK keeps the version; no second node"
    );

    stream.ack(&nacked).await;
    let acked = stream.next(patience).await.unwrap();
    assert_eq!(acked.nonce, format!("0|v|{}|false", nacked.nonce));
    stream.expect_silence(Duration::from_millis(20)).await;

    // Another stream of the same connection is its own.
    let mut other = envoy.subscribe(&["a", "b"]).await;
    assert_eq!(other.next(patience).await.unwrap().only().name, "a,b");
}

#[tokio::test]
async fn a_stalled_peer_notices_that_it_was_dropped_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sds.sock");
    let server = serve(&socket);
    let node = node("id", None);
    let kept = StalledEnvoy::connect(&socket, &node, &["default", "ROOTCA"])
        .await
        .unwrap();
    assert!(!kept.dropped_within(Duration::from_millis(50)).await);

    let dropped = StalledEnvoy::connect(&socket, &node, &["default"]).await.unwrap();
    drop(server);
    assert!(dropped.dropped_within(crate::patience()).await);
}
