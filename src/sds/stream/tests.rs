//! Tests of the state-of-the-world stream: what is answered, what waits, and what counts as an acknowledgement.
//!
//! No socket and no clock of the machine: requests go in, effects come out.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::sds::ledger::{Next, Offer, Offers, Patience, Push};
use crate::sds::names::PerName;

const PATIENCE: Patience = Patience {
    roots: Duration::from_secs(10),
    answer: Duration::from_secs(10),
};
const BOTH: [&str; 2] = ["default", "ROOTCA"];

/// A stream, and what it is offered.
struct Bench {
    stream: Stream,
    now: Instant,
    offers: Offers,
    roots_accepted: bool,
}

fn offer(version: &str) -> Option<Offer> {
    Some(Offer {
        version: version.into(),
        secret: Bytes::copy_from_slice(version.as_bytes()),
    })
}

fn request(names: &[&str]) -> Request {
    Request {
        names: names.iter().collect(),
        ..Request::default()
    }
}

fn refusal() -> Option<Refusal> {
    Some(Refusal { reason: "no".into() })
}

impl Bench {
    fn new() -> Self {
        let offers = Offers {
            bundle: offer("b1"),
            certificate: offer("c1"),
        };
        Self {
            stream: Stream::new(7),
            now: Instant::now(),
            offers,
            roots_accepted: true,
        }
    }

    fn send(&mut self, request: Request) -> Vec<Effect> {
        self.stream.on_request(request)
    }

    fn next(&mut self) -> Next {
        self.stream
            .ledger
            .next(self.now, &self.offers, self.roots_accepted, PATIENCE)
    }

    #[track_caller]
    fn push(&mut self) -> Push {
        match self.next() {
            Next::Push(push) => push,
            other => panic!("expected a push, got {other:?}"),
        }
    }

    #[track_caller]
    fn holds(&mut self) {
        assert!(!matches!(self.next(), Next::Push(_)), "expected nothing to be sent");
    }

    fn answer(&mut self, push: &Push, names: &[&str], refusal: Option<Refusal>) -> Vec<Effect> {
        let (nonce, version) = (push.nonce.clone(), push.offer.version.clone());
        self.send(Request {
            version,
            nonce,
            refusal,
            ..request(names)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn first_request_is_answered_and_its_acceptance_is_not() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.send(request(&["default"])),
        [Effect::Subscribe {
            name: Name::Certificate,
            claim: None
        }]
    );
    let push = bench.push();
    assert_eq!((push.name, push.offer.version.as_str()), (Name::Certificate, "c1"));
    let accepted = Effect::Accepted {
        name: Name::Certificate,
        version: "c1".into(),
    };
    assert_eq!(bench.answer(&push, &["default"], None), [accepted]);
    bench.holds();
    assert_eq!(bench.answer(&push, &["default"], None), [], "accepted twice");
    bench.holds();
    bench.offers.certificate = offer("c2");
    assert_eq!(bench.push().offer.version, "c2");
}

#[tokio::test(start_paused = true)]
async fn nothing_to_offer_is_held_and_answered_when_it_comes() {
    let mut bench = Bench::new();
    let offers = std::mem::take(&mut bench.offers);
    bench.send(request(&["default"]));
    assert!(matches!(bench.next(), Next::Hold));
    bench.offers = offers;
    assert_eq!(bench.push().name, Name::Certificate);
}

#[tokio::test(start_paused = true)]
async fn reconnect_with_version_claims_it_and_is_answered() {
    let mut bench = Bench::new();
    let version = "c1".to_owned();
    let effects = bench.send(Request {
        version: version.clone(),
        ..request(&["default"])
    });
    assert_eq!(
        effects,
        [Effect::Subscribe {
            name: Name::Certificate,
            claim: Some(version.clone())
        }]
    );
    assert_eq!(bench.push().offer.version, "c1");

    let mut bench = Bench::new();
    let effects = bench.send(Request {
        version,
        nonce: "of another life".into(),
        ..request(&["default"])
    });
    assert_eq!(
        effects,
        [Effect::Subscribe {
            name: Name::Certificate,
            claim: None
        }]
    );
    assert_eq!(bench.push().offer.version, "c1");
}

#[tokio::test(start_paused = true)]
async fn who_comes_with_a_version_holds_something_and_is_spared_what_was_refused() {
    let mut bench = Bench::new();
    bench.send(Request {
        version: "c0".to_owned(),
        nonce: "of another life".into(),
        ..request(&["default"])
    });
    let ledger = &mut bench.stream.ledger;
    assert!(ledger.holds(Name::Certificate) && !ledger.holds(Name::Bundle));
    ledger.withhold(Name::Certificate, vec![Rejected::new("c1", b"c1").digest]);
    bench.holds();
    bench.offers.certificate = offer("c2");
    let push = bench.push();
    bench.answer(&push, &BOTH, None);
    assert!(
        !bench.stream.ledger.holds(Name::Bundle),
        "added later, without a version of its own"
    );
    let mut bench = Bench::new();
    bench.send(request(&["default"]));
    assert!(!bench.stream.ledger.holds(Name::Certificate), "a fresh one");
}

#[tokio::test(start_paused = true)]
async fn empty_nonce_on_a_running_stream_is_answered_again() {
    let mut bench = Bench::new();
    bench.send(request(&["default"]));
    let push = bench.push();
    bench.answer(&push, &["default"], None);
    assert_eq!(bench.send(request(&["default"])), []);
    assert_eq!(bench.push().offer.version, "c1");
}

#[tokio::test(start_paused = true)]
async fn refused_secret_is_never_sent_again_under_any_version() {
    let mut bench = Bench::new();
    bench.send(request(&["default"]));
    let push = bench.push();
    let effects = bench.answer(&push, &["default"], refusal());
    assert_eq!(
        effects,
        [Effect::refused(
            Some((Name::Certificate, Some(Rejected::new("c1", b"c1")))),
            Refusal { reason: "no".into() }
        )]
    );
    assert_eq!(
        bench.answer(&push, &["default"], refusal()),
        [Effect::refused(
            Some((Name::Certificate, None)),
            Refusal { reason: "no".into() }
        )],
        "once is enough"
    );
    bench.holds();
    let secret = push.offer.secret.clone();
    bench.offers.certificate = Some(Offer {
        version: "c2".into(),
        secret,
    });
    bench.holds();
    bench.send(request(&["default"]));
    bench.holds();
    bench.send(request(&[]));
    bench.send(request(&["default"]));
    bench.holds();
    bench.offers.certificate = offer("c3");
    assert_eq!(bench.push().offer.version, "c3");
}

#[tokio::test(start_paused = true)]
async fn refusals_that_fit_nothing_are_counted_and_change_nothing() {
    let mut bench = Bench::new();
    let unknown = Effect::refused(None, Refusal { reason: "no".into() });
    let effects = bench.send(Request {
        refusal: refusal(),
        ..request(&["default"])
    });
    assert_eq!(
        effects,
        [
            unknown.clone(),
            Effect::Subscribe {
                name: Name::Certificate,
                claim: None
            }
        ]
    );
    let push = bench.push();
    bench.answer(&push, &["default"], None);
    for nonce in ["", "7-99", "8-1"] {
        let effects = bench.send(Request {
            refusal: refusal(),
            nonce: nonce.into(),
            ..request(&["default"])
        });
        assert_eq!(effects, std::slice::from_ref(&unknown), "{nonce:?}");
        bench.holds();
    }
}

#[tokio::test(start_paused = true)]
async fn empty_list_unsubscribes() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(request(&[])), [], "a first message without names");
    bench.holds();
    bench.send(request(&["default"]));
    let push = bench.push();
    let accepted = Effect::Accepted {
        name: Name::Certificate,
        version: "c1".into(),
    };
    let effects = bench.send(Request {
        nonce: push.nonce.clone(),
        ..request(&[])
    });
    assert_eq!(effects, [accepted, Effect::Unsubscribe(Name::Certificate)]);
    bench.offers.certificate = offer("c2");
    bench.holds();
    // Again, with a nonce that means nothing any more.
    let effects = bench.send(Request {
        nonce: push.nonce,
        ..request(&["default"])
    });
    assert_eq!(
        effects,
        [Effect::Subscribe {
            name: Name::Certificate,
            claim: None
        }]
    );
    assert_eq!(bench.push().offer.version, "c2");
}

#[tokio::test(start_paused = true)]
async fn stale_nonce_is_ignored_and_counted() {
    let mut bench = Bench::new();
    bench.send(request(&["default"]));
    let first = bench.push();
    bench.answer(&first, &["default"], None);
    bench.offers.certificate = offer("c2");
    let second = bench.push();
    assert_eq!(bench.answer(&first, &["default", "ROOTCA"], None), [Effect::Stale]);
    bench.holds();
    assert_eq!(bench.answer(&second, &["default"], None).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_names_are_sent_in_order_roots_first_and_answered_each_by_its_nonce() {
    let accepted = |name, version: &str| Effect::Accepted {
        name,
        version: version.into(),
    };
    let mut bench = Bench::new();
    assert_eq!(bench.send(request(&["default", "ROOTCA", "default"])).len(), 2);
    let root = bench.push();
    let leaf = bench.push();
    assert_eq!((root.name, leaf.name), (Name::Bundle, Name::Certificate));
    bench.holds();
    assert_eq!(bench.answer(&root, &BOTH, None), [accepted(Name::Bundle, "b1")]);
    assert_eq!(bench.answer(&root, &BOTH, None), [Effect::Stale], "answered twice");
    assert_eq!(bench.answer(&leaf, &BOTH, None), [accepted(Name::Certificate, "c1")]);
    bench.offers.bundle = offer("b2");
    let root = bench.push();
    bench.offers.certificate = offer("c2");
    let leaf = bench.push();
    bench.answer(&root, &BOTH, refusal());
    bench.answer(&leaf, &BOTH, None);
    bench.holds();
    // Each name waits for its own answers.
    bench.offers = Offers {
        bundle: offer("b3"),
        certificate: offer("c3"),
    };
    let _root = bench.push();
    let leaf = bench.push();
    bench.answer(&leaf, &BOTH, None);
    bench.offers.bundle = offer("b4");
    bench.offers.certificate = offer("c4");
    assert!(matches!(bench.next(), Next::HoldUntil(_)), "the roots go first");
    // A name that an acceptance adds is answered, alone.
    let mut bench = Bench::new();
    bench.send(request(&["default"]));
    let leaf = bench.push();
    assert_eq!(bench.answer(&leaf, &BOTH, None).len(), 2);
    assert_eq!(bench.push().name, Name::Bundle);
}

#[tokio::test(start_paused = true)]
async fn leaf_waits_for_the_roots_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.roots_accepted = false;
    bench.send(request(&["default"]));
    assert!(matches!(bench.next(), Next::HoldUntil(until) if until == bench.now + PATIENCE.roots));
    bench.now += PATIENCE.roots / 2;
    bench.holds();
    bench.now += PATIENCE.roots / 2;
    assert_eq!(bench.push().name, Name::Certificate);
}

#[tokio::test(start_paused = true)]
async fn client_that_never_answers_still_gets_what_is_new() {
    let mut bench = Bench::new();
    bench.send(request(&["default"]));
    let first = bench.push();
    bench.offers.certificate = offer("c2");
    assert!(matches!(bench.next(), Next::HoldUntil(_)));
    bench.now += PATIENCE.answer;
    assert_eq!(bench.push().offer.version, "c2");
    // A late refusal of the older one still counts for the older one.
    assert!(matches!(
        bench.answer(&first, &["default"], refusal())[..],
        [Effect::Refused { name: Some(Name::Certificate), rejected: Some(ref rejected), .. }] if rejected.version == "c1"
    ));
}

#[tokio::test(start_paused = true)]
async fn unknown_names_and_health_are_held() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.send(Request {
            health: true,
            ..Request::default()
        }),
        []
    );
    assert!(bench.stream.expects_first());
    assert_eq!(
        bench.send(request(&["file-cert:~", "file-root:", "x"])),
        [Effect::Unknown(3)]
    );
    bench.holds();
    assert_eq!(bench.send(request(&["file-cert:~", "default"])).len(), 2);
    assert_eq!(bench.push().name, Name::Certificate);
}

/// One thing that can happen.
#[derive(Clone, Debug)]
enum Event {
    Ask {
        names: Vec<&'static str>,
        nonce: usize,
        refuse: bool,
    },
    Offer {
        certificate: Option<u8>,
        bundle: Option<u8>,
    },
    Roots(bool),
    Wait,
}

fn event() -> impl Strategy<Value = Event> {
    let name = proptest::sample::select(vec!["default", "ROOTCA", "file-cert:~", "file-root:", "", "default"]);
    let names = proptest::collection::vec(name, 0..4);
    prop_oneof![
        4 => (names, 0usize..4, any::<bool>()).prop_map(|(names, nonce, refuse)| Event::Ask { names, nonce, refuse }),
        2 => (proptest::option::of(0u8..4), proptest::option::of(0u8..4))
            .prop_map(|(certificate, bundle)| Event::Offer { certificate, bundle }),
        1 => any::<bool>().prop_map(Event::Roots),
        1 => Just(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(events in proptest::collection::vec(event(), 0..60)) {
        let mut bench = Bench::new();
        bench.offers = Offers::default();
        let mut sent = Vec::<Push>::new();
        let mut subscribed = Vec::<Name>::new();
        let mut open = PerName::<Option<(String, Instant)>>::default();
        for event in events {
            match event {
                Event::Ask { names, nonce, refuse } => {
                    // Nonce 0 is none, 1 the newest, 2 one that was never sent, 3 an older one.
                    let newest = sent.last().map(|push| push.nonce.clone()).unwrap_or_default();
                    let oldest = sent.first().map(|push| push.nonce.clone()).unwrap_or_default();
                    let nonce = [String::new(), newest, "x".into(), oldest][nonce].clone();
                    for name in Name::ALL {
                        open.of_mut(name).take_if(|(open, _)| *open == nonce);
                    }
                    let refusal = if refuse { refusal() } else { None };
                    for effect in bench.send(Request { nonce, refusal, ..request(&names) }) {
                        match effect {
                            Effect::Subscribe { name, .. } => subscribed.push(name),
                            Effect::Unsubscribe(name) => {
                                subscribed.retain(|other| *other != name);
                                *open.of_mut(name) = None;
                            }
                            Effect::Accepted { .. } => prop_assert!(!refuse),
                            Effect::Refused { .. } => prop_assert!(refuse),
                            _ => {}
                        }
                    }
                }
                Event::Offer { certificate, bundle } => {
                    let certificate = certificate.and_then(|n| offer(&format!("c{n}")));
                    bench.offers = Offers { certificate, bundle: bundle.and_then(|n| offer(&format!("b{n}"))) };
                }
                Event::Roots(accepted) => bench.roots_accepted = accepted,
                Event::Wait => bench.now += PATIENCE.answer,
            }
            if let Next::Push(push) = bench.next() {
                prop_assert!(subscribed.contains(&push.name), "nobody asked for {push:?}");
                prop_assert!(open.of(push.name).as_ref().is_none_or(|(_, at)| bench.now >= *at + PATIENCE.answer), "two at once");
                prop_assert!(!sent.iter().any(|other| other.nonce == push.nonce), "nonce used twice");
                let kind = match push.name { Name::Bundle => 'b', Name::Certificate => 'c' };
                prop_assert!(push.offer.version.starts_with(kind), "wrong secret under {push:?}");
                *open.of_mut(push.name) = Some((push.nonce.clone(), bench.now));
                sent.push(push);
            }
        }
    }

    #[test]
    fn refused_never_comes_back(offers in proptest::collection::vec((0u8..4, any::<bool>()), 0..40)) {
        let mut bench = Bench::new();
        let mut refused = Vec::new();
        bench.send(request(&["default"]));
        for (version, (content, refuse)) in offers.into_iter().enumerate() {
            let secret = Bytes::copy_from_slice(&[content]);
            bench.offers.certificate = Some(Offer { version: format!("v{version}"), secret });
            let Next::Push(push) = bench.next() else { continue };
            prop_assert!(!refused.contains(&push.offer.secret));
            let answer = if refuse { refusal() } else { None };
            bench.answer(&push, &["default"], answer);
            if refuse {
                refused.push(push.offer.secret);
            }
        }
    }
}
