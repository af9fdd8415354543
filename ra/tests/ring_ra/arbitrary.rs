//! Requests that nobody would send: whatever they hold, each is answered by one of our own refusals, and none by a crash.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

use crate::authority::{Ask, Authority, log_of};

const REQUESTS: usize = 400;

/// A request in parts, readable in a failure.
#[derive(Clone, Debug)]
struct Odd {
    csr: Csr,
    ttl: i64,
    metadata: BTreeMap<String, Value>,
    authorization: Authorization,
    cluster: Option<String>,
}

#[derive(Clone, Debug)]
enum Csr {
    Right,
    /// Cut to so many thousandths, or with a character in that place.
    Cut(usize),
    Changed(usize, char),
    Text(String),
}

#[derive(Clone, Debug)]
enum Authorization {
    Right,
    None,
    Text(String),
}

fn csr() -> impl Strategy<Value = Csr> {
    prop_oneof![
        2 => Just(Csr::Right),
        1 => (0_usize..1000).prop_map(Csr::Cut),
        1 => (0_usize..1000, any::<char>()).prop_map(|(at, with)| Csr::Changed(at, with)),
        1 => "(?s).{0,300}".prop_map(Csr::Text),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        Just(Kind::NullValue(0)),
        any::<f64>().prop_map(Kind::NumberValue),
        any::<bool>().prop_map(Kind::BoolValue),
        "foo|bar|[a-z]{0,70}|(?s).{0,100}".prop_map(Kind::StringValue),
        Just(Kind::ListValue(ListValue::default())),
        Just(Kind::StructValue(Struct::default())),
    ];
    proptest::option::weighted(0.9, kind).prop_map(|kind| Value { kind })
}

fn odd() -> impl Strategy<Value = Odd> {
    let name = "CertSigner|ImpersonatedIdentity|ClusterID|(?s).{0,20}";
    let metadata = vec((name, value()), 0..3);
    let authorization = prop_oneof![
        3 => Just(Authorization::Right),
        1 => Just(Authorization::None),
        1 => "(Bearer |bearer |Basic |)[!-~]{0,80}".prop_map(Authorization::Text),
    ];
    let cluster = proptest::option::weighted(0.2, "Kubernetes|[!-~]{0,40}");
    (csr(), any::<i64>(), metadata, authorization, cluster).prop_map(|(csr, ttl, metadata, authorization, cluster)| {
        Odd {
            csr,
            ttl,
            metadata: metadata.into_iter().collect(),
            authorization,
            cluster,
        }
    })
}

impl Odd {
    fn ask(&self, authority: &Authority) -> Ask {
        let mut ask = authority.ask();
        let right: Vec<char> = ask.csr.chars().collect();
        let place = |thousandth: usize| right.len() * thousandth / 1000;
        ask.csr = match &self.csr {
            Csr::Right => ask.csr,
            Csr::Cut(at) => right[..place(*at)].iter().collect(),
            Csr::Changed(at, with) => {
                let mut changed = right.clone();
                changed[place(*at)] = *with;
                changed.into_iter().collect()
            }
            Csr::Text(text) => text.clone(),
        };
        ask.ttl = self.ttl;
        ask.metadata.clone_from(&self.metadata);
        match &self.authorization {
            Authorization::Right => {}
            Authorization::None => ask.headers.clear(),
            Authorization::Text(text) => ask.headers = vec![("authorization", text.clone())],
        }
        ask.headers.extend(self.cluster.clone().map(|name| ("clusterid", name)));
        ask
    }
}

/// FuzzCreateCertificate.
#[tokio::test]
async fn any_request_is_answered_by_a_refusal_of_ours_or_by_a_certificate() {
    let (authority, _ca) = Authority::start(&[]).await;
    let channel = authority.channel().await;
    let mut runner = TestRunner::default();
    let (mut served, mut refused) = (0, 0);
    for _ in 0..REQUESTS {
        let odd = odd().new_tree(&mut runner).unwrap().current();
        let ask = odd.ask(&authority);
        // Nothing is lost of a text whose last line break is cut off.
        let whole = ask.csr.trim_end().ends_with("-----END CERTIFICATE REQUEST-----");
        match Authority::send_over(channel.clone(), ask).await {
            Ok(elements) => {
                served += 1;
                assert_eq!(elements.len(), 2, "{odd:?}");
                assert!(matches!(odd.authorization, Authorization::Right), "{odd:?}");
                assert!(whole && !matches!(odd.csr, Csr::Text(_)), "{odd:?}");
            }
            Err(status) => {
                refused += 1;
                let ours = [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied];
                assert!(ours.contains(&status.code()), "{status:?} to {odd:?}");
                assert_eq!(status.message(), ensign_ra::refusal::text(status.code()), "{odd:?}");
                assert_eq!(log_of(&status)["message"], "request refused", "{odd:?}");
            }
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
    authority.stop().await;
}
