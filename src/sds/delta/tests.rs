//! Tests of the incremental stream: subscriptions, versions that a client says it holds, acknowledgements.
//!
//! No socket and no clock of the machine: requests go in, effects come out.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::sds::ledger::{Next, Offer, Offers, Patience, Push};
use crate::sds::names::PerName;
use crate::sds::refused::Rejected;
use crate::sds::request::Refusal;

const PATIENCE: Patience = Patience {
    roots: Duration::from_secs(10),
    answer: Duration::from_secs(10),
};

fn offers(certificate: &'static str) -> Offers {
    let offer = |text: &'static str| {
        Some(Offer {
            version: text.into(),
            secret: Bytes::from_static(text.as_bytes()),
        })
    };
    Offers {
        bundle: offer("b1"),
        certificate: offer(certificate),
    }
}

fn next(delta: &mut Delta, certificate: &'static str) -> Option<Push> {
    match delta.ledger.next(Instant::now(), &offers(certificate), true, PATIENCE) {
        Next::Push(push) => Some(push),
        Next::Hold | Next::HoldUntil(_) => None,
    }
}

fn subscribe(names: &[&str]) -> DeltaRequest {
    DeltaRequest {
        subscribe: names.iter().collect(),
        ..DeltaRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn names_come_and_go_by_lists() {
    let mut delta = Delta::new(1);
    assert_eq!(
        delta.on_request(subscribe(&["default"])),
        [Effect::Subscribe {
            name: Name::Certificate,
            claim: None
        }]
    );
    let push = next(&mut delta, "c1").unwrap();
    let answer = DeltaRequest {
        nonce: push.nonce,
        ..subscribe(&["ROOTCA"])
    };
    let accepted = Effect::Accepted {
        name: Name::Certificate,
        version: "c1".into(),
    };
    assert_eq!(
        delta.on_request(answer),
        [
            accepted,
            Effect::Subscribe {
                name: Name::Bundle,
                claim: None
            }
        ]
    );
    let push = next(&mut delta, "c1").unwrap();
    assert_eq!(push.name, Name::Bundle);
    let leave = DeltaRequest {
        nonce: push.nonce,
        unsubscribe: ["default", "nobody's"].into_iter().collect(),
        ..DeltaRequest::default()
    };
    assert!(
        delta
            .on_request(leave)
            .contains(&Effect::Unsubscribe(Name::Certificate))
    );
    assert!(next(&mut delta, "c2").is_none());
}

#[tokio::test(start_paused = true)]
async fn held_versions_are_claimed_by_name_on_the_first_request() {
    let mut delta = Delta::new(1);
    let held = PerName {
        bundle: Some("b0".to_owned()),
        certificate: Some("c0".to_owned()),
    };
    let effects = delta.on_request(DeltaRequest {
        held: held.clone(),
        ..subscribe(&["default", "ROOTCA"])
    });
    let claim = |name, version: &str| Effect::Subscribe {
        name,
        claim: Some(version.into()),
    };
    assert_eq!(effects, [claim(Name::Bundle, "b0"), claim(Name::Certificate, "c0")]);
    assert!(delta.ledger.holds(Name::Bundle) && delta.ledger.holds(Name::Certificate));

    let mut delta = Delta::new(1);
    delta.on_request(DeltaRequest::default());
    let effects = delta.on_request(DeltaRequest {
        held,
        ..subscribe(&["default"])
    });
    assert_eq!(
        effects,
        [Effect::Subscribe {
            name: Name::Certificate,
            claim: None
        }]
    );
    assert!(!delta.ledger.holds(Name::Certificate));
}

#[tokio::test(start_paused = true)]
async fn subscribing_again_is_answered_and_a_refusal_is_not() {
    let mut delta = Delta::new(1);
    delta.on_request(subscribe(&["default"]));
    let push = next(&mut delta, "c1").unwrap();
    delta.on_request(DeltaRequest {
        nonce: push.nonce,
        ..DeltaRequest::default()
    });
    assert!(next(&mut delta, "c1").is_none());
    assert_eq!(delta.on_request(subscribe(&["default"])), []);
    let push = next(&mut delta, "c1").unwrap();
    let no = || Refusal { reason: "no".into() };
    let refusal = Some(no());
    let effects = delta.on_request(DeltaRequest {
        nonce: push.nonce,
        refusal,
        ..DeltaRequest::default()
    });
    let rejected = Some(Rejected::new("c1", b"c1"));
    assert_eq!(effects, [Effect::refused(Some((Name::Certificate, rejected)), no())]);
    delta.on_request(subscribe(&["default"]));
    assert!(next(&mut delta, "c1").is_none());
    assert_eq!(next(&mut delta, "c2").unwrap().offer.version, "c2");
}

#[tokio::test(start_paused = true)]
async fn unknown_names_are_held_and_strange_nonces_counted() {
    let mut delta = Delta::new(1);
    assert_eq!(delta.on_request(subscribe(&["*", "file-cert:~"])), [Effect::Unknown(2)]);
    assert!(next(&mut delta, "c1").is_none());
    let effects = delta.on_request(DeltaRequest {
        nonce: "x".into(),
        ..subscribe(&["default"])
    });
    assert_eq!(
        effects,
        [
            Effect::Stale,
            Effect::Subscribe {
                name: Name::Certificate,
                claim: None
            }
        ]
    );
    assert_eq!(next(&mut delta, "c1").unwrap().name, Name::Certificate);
}
