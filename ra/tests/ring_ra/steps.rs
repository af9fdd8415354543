//! The steps before the signer: each refuses with its code, and the log says why.

use ensign_proto::istio::v1::auth::IstioCertificateResponse;
use ensign_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use ensign_testkit::tokens::Claims;
use futures::future;
use serde_json::json;
use tokio::sync::oneshot;
use tonic::{Code, Request};

use crate::authority::{Ask, Authority, log_of};

const OWN: &str = "spiffe://cluster.local/ns/foo/sa/httpbin";

/// What is wrong with a request, the code, the reason.
type Case = (Box<dyn Fn(&Authority) -> Ask>, Code, &'static str);

fn case(change: impl Fn(&Authority, &mut Ask) + 'static, code: Code, reason: &'static str) -> Case {
    let ask = move |authority: &Authority| {
        let mut ask = authority.ask();
        change(authority, &mut ask);
        ask
    };
    (Box::new(ask), code, reason)
}

fn bearer(ask: &mut Ask, token: &str) {
    ask.headers = vec![("authorization", format!("Bearer {token}"))];
}

fn cases() -> Vec<Case> {
    use Code::{InvalidArgument, PermissionDenied, Unauthenticated};
    vec![
        case(|_, ask| ask.headers.clear(), Unauthenticated, "no_token"),
        // What a proxy of istiod's would say of a client is nothing here.
        case(
            |_, ask| ask.headers = vec![("x-forwarded-client-cert", format!("URI={OWN}"))],
            Unauthenticated,
            "no_token",
        ),
        case(|_, ask| bearer(ask, "abc"), Unauthenticated, "token_form"),
        case(
            |authority, ask| {
                bearer(
                    ask,
                    &authority.token_with(|claims| claims.with("/aud", json!(["vault"]))),
                );
            },
            Unauthenticated,
            "token_audience",
        ),
        case(
            |authority, ask| bearer(ask, &authority.token_with(|claims| claims.with("/exp", 1))),
            Unauthenticated,
            "token_expired",
        ),
        case(
            |_, ask| ask.headers.push(("clusterid", "other".to_owned())),
            Unauthenticated,
            "unknown_cluster",
        ),
        case(
            |authority, ask| *ask = authority.ask().with("ImpersonatedIdentity", OWN),
            Unauthenticated,
            "impersonation",
        ),
        case(
            |authority, ask| *ask = authority.ask().with("CertSigner", "a/b"),
            InvalidArgument,
            "cert_signer_name",
        ),
        case(
            |authority, ask| *ask = authority.ask_for("spiffe://cluster.local/ns/foo/sa/other"),
            PermissionDenied,
            "identity_mismatch",
        ),
        case(
            |authority, ask| *ask = authority.ask_for("spiffe://other.domain/ns/foo/sa/httpbin"),
            PermissionDenied,
            "identity_mismatch",
        ),
        case(
            |authority, ask| *ask = authority.ask().with("CertSigner", "bar"),
            PermissionDenied,
            "signer_not_allowed",
        ),
        case(
            |authority, ask| {
                *ask = authority.ask_for("spiffe://cluster.local/ns/bar/sa/sleep");
                let token = authority.tokens.mint(&Claims::service_account("bar", "sleep"));
                bearer(ask, &token);
            },
            PermissionDenied,
            "no_rule",
        ),
    ]
}

#[tokio::test]
async fn each_step_refuses_with_its_code() {
    let (authority, _ca) = Authority::start(&[]).await;
    authority.script(|_| panic!("no signer may be asked"));
    for (ask, code, reason) in cases() {
        let status = authority.send(ask(&authority)).await.unwrap_err();
        let line = log_of(&status);
        assert_eq!((status.code(), line["reason"].as_str()), (code, Some(reason)), "{line}");
        assert!(!status.message().contains("foo"), "{}", status.message());
    }
    let mut ask = authority.ask();
    ask.csr = "not PEM".to_owned();
    let status = authority.send(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(log_of(&status)["message"], "request refused");
    authority.stop().await;
}

#[tokio::test]
async fn one_text_per_code() {
    let (authority, _ca) = Authority::start(&[]).await;
    let mut texts = std::collections::BTreeMap::new();
    for (ask, code, _) in cases() {
        let status = authority.send(ask(&authority)).await.unwrap_err();
        let text = texts.entry(code as i32).or_insert_with(|| status.message().to_owned());
        assert_eq!(text, status.message());
    }
    authority.stop().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_told_so() {
    let (authority, _ca) = Authority::start(&["--max-message-bytes=4096"]).await;
    let mut client = IstioCertificateServiceClient::new(authority.channel().await);
    let ask = authority.ask().with("x", &"x".repeat(5000));
    let status = client.create_certificate(ask.into_request()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(!status.message().contains("4096"), "{}", status.message());
    let metrics = authority.http("metrics", "/metrics").await;
    let counted = "ensign_ra_requests_total{code=\"resource_exhausted\",reason=\"message_size\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    authority.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_request_are_told_so() {
    let (authority, _ca) = Authority::start(&[]).await;
    let mut client = tonic::client::Grpc::new(authority.channel().await);
    client.ready().await.unwrap();
    // Its first field is a number; that of a request is a text.
    let message = prost_types::Duration { seconds: 1, nanos: 0 };
    let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
        .parse()
        .unwrap();
    let codec = tonic_prost::ProstCodec::<_, IstioCertificateResponse>::default();
    let status = client.unary(Request::new(message), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.message(), ensign_ra::refusal::text(Code::InvalidArgument));
    let metrics = authority.http("metrics", "/metrics").await;
    let counted = "ensign_ra_requests_total{code=\"invalid_argument\",reason=\"message\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    authority.stop().await;
}

#[tokio::test]
async fn one_account_has_its_share() {
    let (authority, _ca) = Authority::start(&["--max-in-flight-per-caller=1"]).await;
    let (begun, has_begun) = oneshot::channel();
    let once = std::sync::Mutex::new(Some(begun));
    authority.script(move |_| {
        let begun = once.lock().unwrap().take().expect("one request");
        Box::pin(async move {
            _ = begun.send(());
            future::pending().await
        })
    });
    let status = tokio::select! {
        outcome = authority.send(authority.ask()) => panic!("{outcome:?}"),
        status = async {
            has_begun.await.unwrap();
            authority.send(authority.ask()).await.unwrap_err()
        } => status,
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(log_of(&status)["reason"], "per_caller");
    authority.stop().await;
}
