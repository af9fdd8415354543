//! Who is let in, by the metadata of a call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ensign_pki::Clock;
use ensign_testkit::tokens::{self, AUDIENCE, Claims, ISSUER, TokenMint};
use test_case::test_case;
use tonic::metadata::MetadataValue;

use super::*;

const NOW: u64 = 1_800_000_000;

#[derive(Debug)]
struct At(SystemTime);

impl Clock for At {
    fn now(&self) -> SystemTime {
        self.0
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn claims() -> Claims {
    Claims::service_account_at(now(), "foo", "httpbin")
}

fn keys_of(issuer: &TokenMint) -> Jwks {
    Jwks::parse(tokens::jwks(&[issuer]).as_bytes()).unwrap()
}

fn authenticator(issuer: &TokenMint) -> (Authenticator, watch::Sender<Arc<Jwks>>) {
    let config = AuthnConfig {
        jwks_file: PathBuf::new(),
        tokens: Expectations {
            issuer: ISSUER.to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            leeway: Duration::from_secs(10),
        },
        cluster_id: "Kubernetes".to_owned(),
    };
    let (sender, jwks) = watch::channel(Arc::new(keys_of(issuer)));
    let clock = Arc::new(At(now()));
    (Authenticator::new(&config, jwks, clock), sender)
}

fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in pairs {
        metadata.append(*name, MetadataValue::try_from(*value).unwrap());
    }
    metadata
}

fn verdict(pairs: &[(&'static str, &str)]) -> Result<Caller, &'static str> {
    let issuer = TokenMint::es256("a");
    let token = issuer.mint(&claims());
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (*name, value.replace("TOKEN", &token)))
        .collect();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (authenticator, _keys) = authenticator(&issuer);
    authenticator
        .authenticate(&metadata(&pairs))
        .map_err(|error| error.reason())
}

#[test]
fn a_caller_is_all_that_its_token_says() {
    let caller = verdict(&[("authorization", "Bearer TOKEN")]).unwrap();
    assert_eq!((&*caller.namespace, &*caller.service_account), ("foo", "httpbin"));
    assert_eq!(caller.pod.as_deref(), Some("httpbin-0"));
    assert_eq!(
        caller.pod_uid.as_deref(),
        claims().json()["kubernetes.io"]["pod"]["uid"].as_str()
    );
    assert_eq!(caller.node.as_deref(), Some("node-a"));
    assert_eq!(
        (&*caller.cluster, caller.token_id.as_deref()),
        ("Kubernetes", claims().json()["jti"].as_str())
    );
}

#[test_case(&[], "no_token"; "no authorization")]
#[test_case(&[("authorization", "Basic dTpw")], "not_bearer"; "another scheme")]
#[test_case(&[("authorization", "Bearer")], "not_bearer"; "no token")]
#[test_case(&[("authorization", "Bearer ")], "not_bearer"; "an empty token")]
#[test_case(&[("authorization", "TOKEN")], "not_bearer"; "no scheme")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")], "many_tokens"; "two tokens")]
#[test_case(&[("authorization", "Basic dTpw"), ("authorization", "Bearer TOKEN")], "many_tokens"; "two schemes")]
#[test_case(&[("authorization", "Bearer abc")], "token_form"; "no JWT")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "other")], "unknown_cluster"; "another cluster")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "kubernetes")], "unknown_cluster"; "another case")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", ""), ("clusterid", "")], "many_clusters"; "two clusters")]
fn who_is_not_let_in(pairs: &[(&'static str, &str)], reason: &str) {
    assert_eq!(verdict(pairs).unwrap_err(), reason);
}

#[test_case(&[("authorization", "bearer TOKEN")]; "lower case")]
#[test_case(&[("authorization", "BEARER TOKEN")]; "upper case")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "")]; "an empty cluster")]
#[test_case(&[("authorization", "Bearer TOKEN"), ("clusterid", "Kubernetes")]; "our cluster")]
fn who_is_let_in(pairs: &[(&'static str, &str)]) {
    verdict(pairs).unwrap();
}

#[test]
fn new_keys_count_from_the_next_call() {
    let (old, new) = (TokenMint::es256("a"), TokenMint::es256("b"));
    let (authenticator, keys) = authenticator(&old);
    let token = format!("Bearer {}", new.mint(&claims()));
    let call = metadata(&[("authorization", &token)]);
    assert_eq!(
        authenticator.authenticate(&call).unwrap_err().reason(),
        "token_kid_unknown"
    );
    keys.send_replace(Arc::new(keys_of(&new)));
    authenticator.authenticate(&call).unwrap();
}
