//! Every outcome of the signer contract, as the client and the log see it.

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{Certificate, SignerName};
use ensign_ra::signer::SignerError;
use futures::future;
use rcgen::ExtendedKeyUsagePurpose;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use crate::authority::{Authority, all_logs, log_of};
use crate::ca::{Ca, Leaf};
use crate::held::hold_one;

fn assert_refused(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let line = log_of(status);
    assert_eq!(line["reason"], reason, "{line}");
    // Opaque: nothing of the reason, the signer or the identity.
    for secret in [reason, "foo", "httpbin", "secret detail"] {
        assert!(
            !status.message().contains(secret),
            "{:?} contains {secret:?}",
            status.message()
        );
    }
}

type MakeError = fn(SignerName, String) -> SignerError;
type ChangeLeaf = fn(&mut Leaf<'_>);

#[tokio::test]
async fn a_chain_is_answered_leaf_first_root_bundle_last() {
    let root = Ca::root("root");
    let (second, first) = {
        let second = root.intermediate("second");
        let first = second.intermediate("first");
        (second, first)
    };
    let other = Ca::root("next root");
    let authority = Authority::start_under(&format!("{}{}", root.pem(), other.pem()), &[]).await;
    let (a, b) = (first.der(), second.der());
    authority.script(move |issuance| {
        let mut chain = first.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
        // Misordered: the reply is ordered all the same.
        chain.extend([b.clone(), a.clone()]);
        Box::pin(async move { Ok(chain) })
    });
    let elements = authority.send(authority.ask()).await.unwrap();
    assert_eq!(elements.len(), 4);
    let certificates = |text: &String| text.matches("BEGIN CERTIFICATE").count();
    assert_eq!(elements.iter().map(certificates).collect::<Vec<_>>(), [1, 1, 1, 2]);
    assert!(
        elements
            .iter()
            .all(|one| one.ends_with("-----\n") && !one.contains("\n\n"))
    );
    authority.stop().await;
}

#[tokio::test]
async fn the_signer_gets_the_canonical_request() {
    let (authority, ca) = Authority::start(&[]).await;
    let (seen, was_seen) = std::sync::mpsc::channel();
    authority.script(move |issuance| {
        let chain = ca.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
        seen.send(issuance).unwrap();
        Box::pin(async move { Ok(chain) })
    });
    let mut ask = authority.ask().with("CertSigner", "foo");
    ask.ttl = i64::MAX;
    let csr = ask.csr.clone();
    authority.send(ask).await.unwrap();
    let issuance = was_seen.try_recv().unwrap();
    assert_eq!(issuance.csr.to_pem().trim(), csr.trim());
    assert_eq!(issuance.ttl, Duration::from_hours(2160));
    assert_eq!(issuance.originator.node.as_deref(), Some("node-a"));
    assert_eq!(issuance.originator.pod.unwrap().name, "httpbin-0");
    authority.stop().await;
}

#[tokio::test]
async fn each_error_of_a_signer_has_its_code() {
    let (authority, _ca) = Authority::start(&[]).await;
    let signer: SignerName = "foo".parse().unwrap();
    let detail = || "secret detail".to_owned();
    let cases: [(MakeError, Code, &str); 6] = [
        (
            |signer, detail| SignerError::Denied { signer, detail },
            Code::FailedPrecondition,
            "denied",
        ),
        (
            |signer, detail| SignerError::Failed { signer, detail },
            Code::FailedPrecondition,
            "failed",
        ),
        (
            |signer, detail| SignerError::Gone { signer, detail },
            Code::Unavailable,
            "gone",
        ),
        (
            |signer, detail| SignerError::NotReady { signer, detail },
            Code::Unavailable,
            "not_ready",
        ),
        (
            |signer, detail| SignerError::TimedOut { signer, detail },
            Code::DeadlineExceeded,
            "timed_out",
        ),
        (
            |signer, detail| SignerError::Unavailable { signer, detail },
            Code::Unavailable,
            "unavailable",
        ),
    ];
    for (error, code, reason) in cases {
        let signer = signer.clone();
        authority.script(move |_| {
            let error = error(signer.clone(), detail());
            Box::pin(async move { Err(error) })
        });
        let status = authority.send(authority.ask()).await.unwrap_err();
        assert_refused(&status, code, reason);
        assert!(log_of(&status)["detail"].as_str().unwrap().contains("secret detail"));
    }
    authority.stop().await;
}

#[tokio::test]
async fn a_wrong_answer_of_each_kind_is_never_passed_on() {
    let (authority, ca) = Authority::start(&[]).await;
    let foreign = Arc::new(Ca::root("root"));
    let between = Arc::new(ca.intermediate("between"));
    let wrong: [(&str, ChangeLeaf); 6] = [
        ("ca_leaf", |leaf| leaf.ca = true),
        ("wrong_san", |leaf| {
            leaf.uris = vec!["spiffe://cluster.local/ns/foo/sa/other".to_owned()];
        }),
        ("wrong_san", |leaf| {
            leaf.uris.push("spiffe://cluster.local/ns/foo/sa/other".to_owned());
        }),
        ("missing_eku", |leaf| {
            leaf.purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        ("expired", |leaf| {
            (leaf.from, leaf.to) = (time::Duration::hours(-3), time::Duration::hours(-2));
        }),
        ("not_yet_valid", |leaf| {
            (leaf.from, leaf.to) = (time::Duration::minutes(2), time::Duration::hours(3));
        }),
    ];
    for (reason, change) in wrong {
        let ca = Arc::clone(&ca);
        authority.script(move |issuance| {
            let mut leaf = Leaf::of(issuance.csr.spki_der(), issuance.id.as_str());
            change(&mut leaf);
            let chain = ca.sign(&leaf);
            Box::pin(async move { Ok(chain) })
        });
        let status = authority.send(authority.ask()).await.unwrap_err();
        assert_refused(&status, Code::Internal, reason);
    }
    for (reason, ca) in [("foreign_root", foreign), ("incomplete_chain", between)] {
        authority.script(move |issuance| {
            let chain = ca.sign(&Leaf::of(issuance.csr.spki_der(), issuance.id.as_str()));
            Box::pin(async move { Ok(chain) })
        });
        let status = authority.send(authority.ask()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        let seen = log_of(&status)["reason"].as_str().unwrap().to_owned();
        assert!(
            ["foreign_root", "incomplete_chain"].contains(&&*seen),
            "{seen}, expected {reason}"
        );
    }
    authority.script(|_| Box::pin(async { Ok(Vec::new()) }));
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let other = authority.ask();
    let spki = ensign_pki::csr::Csr::parse_pem(&other.csr).unwrap().spki_der().to_vec();
    authority.script(move |issuance| {
        let chain = ca.sign(&Leaf::of(&spki, issuance.id.as_str()));
        Box::pin(async move { Ok(chain) })
    });
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_refused(&status, Code::Internal, "wrong_key");
    authority.stop().await;
}

/// A signer's clock may be ahead of ours, and ours ahead of the client's Envoys: nobody gets what is not valid yet.
#[tokio::test]
async fn a_certificate_of_a_clock_ahead_is_held_until_it_is_valid() {
    let (authority, ca) = Authority::start(&[]).await;
    authority.script(move |issuance| {
        let mut leaf = Leaf::of(issuance.csr.spki_der(), issuance.id.as_str());
        leaf.from = time::Duration::seconds(3);
        let chain = ca.sign(&leaf);
        Box::pin(async move { Ok(chain) })
    });
    let asked_at = std::time::SystemTime::now();
    let elements = authority.send(authority.ask()).await.unwrap();
    let begins = Certificate::parse_pem(&elements[0]).unwrap().not_before();
    assert!(begins > asked_at, "its time had come before it was asked for");
    assert!(begins <= std::time::SystemTime::now(), "it came before its time");
    authority.stop().await;
}

/// While its certificate is waited for, and also if it is too far ahead to be served.
#[tokio::test]
async fn how_far_a_signers_clock_is_ahead_is_shown() {
    let (authority, ca) = Authority::start(&[]).await;
    let dated = |ahead: Option<i64>| {
        let ca = Arc::clone(&ca);
        authority.script(move |issuance| {
            let mut leaf = Leaf::of(issuance.csr.spki_der(), issuance.id.as_str());
            leaf.from = ahead.map_or(leaf.from, time::Duration::seconds);
            let chain = ca.sign(&leaf);
            Box::pin(async move { Ok(chain) })
        });
    };
    let shown = async || -> f64 {
        let page = authority.http("metrics", "/metrics").await;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix("ensign_ra_signer_clock_ahead_seconds{signer=\"foo\"} "));
        value.expect("the series").parse().unwrap()
    };
    dated(None);
    authority.send(authority.ask()).await.unwrap();
    assert_eq!(shown().await, 0.0);

    dated(Some(30));
    let ahead = tokio::select! {
        outcome = authority.send(authority.ask()) => panic!("before its time: {outcome:?}"),
        ahead = async { loop {
            let ahead = shown().await;
            if ahead > 0.0 { break ahead; }
            tokio::time::sleep(Duration::from_millis(20)).await;
        } } => ahead,
    };
    assert!(ahead <= 30.0, "{ahead}");

    dated(Some(120));
    authority.send(authority.ask()).await.unwrap_err();
    let ahead = shown().await;
    assert!(ahead > 30.0 && ahead <= 120.0, "{ahead}");

    dated(None);
    authority.send(authority.ask()).await.unwrap();
    assert_eq!(shown().await, 0.0, "somebody set the clock");
    authority.stop().await;
}

const LIFETIME: &str = "
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
signers:
- name: foo
  kubernetesCsr: {signerName: example.com/foo}
  roots: /nowhere/foo.pem
  lifetime: any
rules:
- namespace: foo
  serviceAccounts: [httpbin]
  signers: [foo]
  default: foo
";

#[tokio::test]
async fn another_lifetime_than_asked_for_is_served_unless_the_policy_says_exact() {
    for (policy, served) in [
        (LIFETIME.to_owned(), true),
        (LIFETIME.replace("lifetime: any", "lifetime: exact"), false),
    ] {
        let (authority, ca) = Authority::start_with_policy(&policy, &[]).await;
        for (hours, differs) in [(1, false), (2, true)] {
            let ca = Arc::clone(&ca);
            authority.script(move |issuance| {
                let mut leaf = Leaf::of(issuance.csr.spki_der(), issuance.id.as_str());
                (leaf.from, leaf.to) = (time::Duration::seconds(-1), time::Duration::hours(hours));
                let chain = ca.sign(&leaf);
                Box::pin(async move { Ok(chain) })
            });
            match authority.send(authority.ask()).await {
                Ok(_) => assert!(served || !differs, "{hours} h under {policy}"),
                Err(status) => {
                    assert!(!served && differs, "{status:?}");
                    assert_refused(&status, Code::Internal, "wrong_lifetime");
                }
            }
        }
        authority.stop().await;
    }
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            _ = sender.send(());
        }
    }
}

fn hang(authority: &Authority) -> (oneshot::Receiver<()>, oneshot::Receiver<()>) {
    let (begun, has_begun) = oneshot::channel();
    let (dropped, was_dropped) = oneshot::channel();
    let once = std::sync::Mutex::new(Some((begun, Dropped(Some(dropped)))));
    authority.script(move |_| {
        let (begun, dropped) = once.lock().unwrap().take().expect("one request");
        Box::pin(async move {
            let _dropped = dropped;
            _ = begun.send(());
            future::pending().await
        })
    });
    (has_begun, was_dropped)
}

#[tokio::test]
async fn a_signer_that_hangs_costs_the_signer_timeout() {
    let (authority, _ca) = Authority::start(&["--signer-timeout=50ms"]).await;
    let (_, dropped) = hang(&authority);
    let status = authority.send(authority.ask()).await.unwrap_err();
    assert_refused(&status, Code::DeadlineExceeded, "signer_deadline");
    dropped.await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn the_deadline_of_the_client_counts_if_it_is_shorter() {
    let (authority, _ca) = Authority::start(&[]).await;
    let (_, dropped) = hang(&authority);
    let mut ask = authority.ask();
    ask.timeout = Some(Duration::from_millis(500));
    authority.send(ask).await.unwrap_err();
    dropped.await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn a_call_that_is_dropped_cancels_the_signer() {
    let (authority, _ca) = Authority::start(&[]).await;
    let (begun, dropped) = hang(&authority);
    tokio::select! {
        outcome = authority.send(authority.ask()) => panic!("{outcome:?}"),
        _ = begun => {}
    }
    dropped.await.unwrap();
    authority.stop().await;
}

#[tokio::test]
async fn stopping_lets_the_request_in_flight_finish() {
    let (authority, ca) = Authority::start(&[]).await;
    let (has_begun, go) = hold_one(&authority, ca);
    let (outcome, ()) = tokio::join!(authority.send(authority.ask()), async {
        has_begun.await.unwrap();
        authority.stop.cancel();
        go.send(()).unwrap();
    });
    assert_eq!(outcome.unwrap().len(), 2);
    authority.stop().await;
    assert!(!all_logs().contains("drain timed out"));
}
