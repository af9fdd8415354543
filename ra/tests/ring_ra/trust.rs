//! A signer's roots change under its requests: each answer is judged by those of now, and without any nothing is signed.

use std::sync::Arc;

use ensign_ra::trust::{NoRoots, Roots};
use tonic::{Code, Status};

use crate::authority::{Authority, log_of};
use crate::ca::{Ca, Leaf};
use crate::held::hold_one;

fn roots(cas: &[&Ca]) -> Roots {
    Roots::parse(&cas.iter().map(|ca| ca.pem()).collect::<String>()).unwrap()
}

fn gone() -> NoRoots {
    NoRoots::Gone {
        place: "key ca.pem of ConfigMap istio-system/foo".to_owned(),
    }
}

fn assert_opaque(status: &Status, code: Code, reasons: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(status.message(), ensign_ra::refusal::text(code));
    let line = log_of(status);
    assert!(reasons.contains(&line["reason"].as_str().unwrap()), "{line}");
}

/// TestK8sSignWithMeshConfig: the root of the mesh configuration is later another than the signer's.
#[tokio::test]
async fn an_answer_is_judged_by_the_roots_of_now() {
    let (authority, ca) = Authority::start(&[]).await;
    authority.send(authority.ask()).await.unwrap();
    let next = Ca::root("next root");
    authority.set_roots(Ok(roots(&[&next])));
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_opaque(&status, Code::Internal, &["foreign_root", "incomplete_chain"]);
    // Both, as in the middle of a rotation: either is good, and the client learns of both.
    authority.set_roots(Ok(roots(&[&ca, &next])));
    let elements = authority.send(authority.ask()).await.unwrap();
    assert_eq!(elements.last().unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    authority.stop().await;
}

#[tokio::test]
async fn without_roots_no_signer_is_asked() {
    let (authority, ca) = Authority::start(&[]).await;
    authority.script(|_| panic!("no signer may be asked"));
    authority.set_roots(Err(gone()));
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_opaque(&status, Code::Unavailable, &["roots_gone"]);
    let detail = log_of(&status)["detail"].to_string();
    assert!(detail.contains("ConfigMap istio-system/foo"), "{detail}");
    let signs = Arc::clone(&ca);
    authority.script(move |issuance| {
        let chain = signs.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
        Box::pin(async move { Ok(chain) })
    });
    authority.set_roots(Ok(roots(&[&ca])));
    authority.send(authority.ask()).await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn roots_that_go_while_the_signer_works_keep_its_answer_back() {
    let (authority, ca) = Authority::start(&[]).await;
    let (has_begun, go) = hold_one(&authority, ca);
    let (outcome, ()) = tokio::join!(authority.send(authority.ask()), async {
        has_begun.await.unwrap();
        authority.set_roots(Err(gone()));
        go.send(()).unwrap();
    });
    assert_opaque(&outcome.unwrap_err(), Code::Unavailable, &["roots_gone"]);
    authority.stop().await;
}
