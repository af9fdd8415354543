//! For whom a caller may ask: the ported cases of istiod's and istio-csr's node authorizers, and what they leave open.
//!
//! The letters in the names are those of tests/upstream.md: N, A and P are istio-csr's, I its comparison of identities.

use std::time::Duration;

use ensign_pki::{KeyType, SignerName, SpiffeId};
use test_case::test_case;
use tokio::time::Instant;

use super::*;
use crate::authn::testing::{Teller, clusters, live, pod};
use crate::authn::{Bound, CertificateProof, NodeRef, Proof};
use crate::kubernetes::WatchState;
use crate::policy::{Policy, Wish};

const POD_A: &str = "spiffe://cluster.local/ns/ns-a/sa/sa-a";
const ZTUNNEL: &str = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";

fn ztunnel() -> Caller {
    Caller {
        namespace: "istio-system".to_owned(),
        service_account: "ztunnel".to_owned(),
        pod: Some(Bound {
            name: "ztunnel-a".to_owned(),
            uid: "12345".to_owned(),
        }),
        node: Some(NodeRef {
            name: "zt-node".to_owned(),
            uid: None,
        }),
        cluster: Some("primary".to_owned()),
        token_id: None,
        proof: Proof::TokenReview,
    }
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// ztunnel-a on zt-node, pod-a beside it and pod-b elsewhere, all in the primary cluster.
fn upstream(teller: &Teller) {
    teller.pod(pod(
        "istio-system",
        "ztunnel-a",
        "12345",
        "ztunnel",
        Some("zt-node"),
        "Running",
    ));
    teller.pod(pod("ns-a", "pod-a", "1", "sa-a", Some("zt-node"), "Running"));
    teller.pod(pod("ns-a", "pod-b", "2", "sa-a", Some("other-node"), "Running"));
}

fn authorizer(trusted: &str) -> (Authorizer, Teller) {
    let (primary, teller) = live("primary");
    let (clusters, _) = clusters(primary, &[]);
    (Authorizer::new(trusted.parse().unwrap(), clusters), teller)
}

async fn verdict(
    authorizer: &Authorizer,
    caller: &Caller,
    impersonated: Option<&str>,
    asked: &str,
) -> Result<String, &'static str> {
    let asked: SpiffeId = asked.parse().unwrap();
    let outcome = authorizer
        .authorise(&trust_domain(), caller, impersonated, &asked)
        .await;
    outcome.map(|id| id.to_string()).map_err(|error| error.reason())
}

#[test_case("spiffe://cluster.local/ns/foo/sa/httpbin", Ok(()); "A12, I4, S7: its own")]
#[test_case("spiffe://cluster.local/ns/foo/sa/sleep", Err("identity_mismatch"); "I5, S1: another account")]
#[test_case("spiffe://cluster.local/ns/bar/sa/httpbin", Err("identity_mismatch"); "A8: another namespace")]
#[test_case("spiffe://other.local/ns/foo/sa/httpbin", Err("identity_mismatch"); "another trust domain")]
#[tokio::test]
async fn a_caller_gets_its_own_identity_only(asked: &str, expected: Result<(), &str>) {
    let (authorizer, _) = authorizer("");
    let caller = Caller {
        namespace: "foo".to_owned(),
        service_account: "httpbin".to_owned(),
        pod: None,
        ..ztunnel()
    };
    assert_eq!(verdict(&authorizer, &caller, None, asked).await.map(|_| ()), expected);
}

#[tokio::test]
async fn a_trusted_account_still_gets_its_own() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    assert_eq!(verdict(&authorizer, &ztunnel(), None, ZTUNNEL).await.unwrap(), ZTUNNEL);
    assert_eq!(
        verdict(&authorizer, &ztunnel(), None, POD_A).await,
        Err("identity_mismatch")
    );
}

#[tokio::test]
async fn p1_n1_n2_a_pod_on_the_callers_node_is_granted_and_the_policy_sees_that_pod() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    assert_eq!(
        verdict(&authorizer, &ztunnel(), Some(POD_A), POD_A).await.unwrap(),
        POD_A
    );
}

#[tokio::test]
async fn p3_the_csr_is_for_the_one_that_was_asked_for_and_not_for_the_caller() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    assert_eq!(
        verdict(&authorizer, &ztunnel(), Some(POD_A), ZTUNNEL).await,
        Err("identity_mismatch")
    );
}

type Change = fn(&Teller, &mut Caller);

#[test_case("", |_, _| {}, POD_A, "impersonation"; "P2, P4: nobody is trusted")]
#[test_case("istio-system/istiod", |_, _| {}, POD_A, "impersonation_not_trusted"; "N3: another is trusted")]
#[test_case("istio-system/ztunnel", |_, c| c.namespace = "foo".to_owned(), POD_A, "impersonation_not_trusted"; "the same name in another namespace")]
#[test_case("istio-system/ztunnel", |_, _| {}, "spiffe://invalid", "impersonation_identity"; "N4: no identity")]
#[test_case("istio-system/ztunnel", |_, _| {}, "not-spiffe-idenditity", "impersonation_identity"; "istiod: invalid requested")]
#[test_case("istio-system/ztunnel", |_, _| {}, "spiffe://cluster.local/ns//sa/sa-a", "impersonation_identity"; "an empty namespace, which upstream parses")]
#[test_case("istio-system/ztunnel", |_, _| {}, "spiffe://cluster.local/ns/ns-a/sa/sa-a/", "impersonation_identity"; "a slash at the end")]
#[test_case("istio-system/ztunnel", |_, _| {}, "spiffe://evil/ns/ns-a/sa/sa-a", "impersonation_trust_domain"; "P5: another trust domain")]
#[test_case("istio-system/ztunnel", |_, c| c.pod = None, POD_A, "impersonation_not_pod_bound"; "a token that is bound to no pod")]
#[test_case("istio-system/ztunnel", |_, c| { c.pod = None; c.cluster = None; c.proof = certificate(&["foo"]); }, POD_A, "impersonation_not_pod_bound"; "P6: a client certificate")]
#[test_case("istio-system/ztunnel", |_, c| c.cluster = None, POD_A, "impersonation_not_pod_bound"; "nobody vouches for its pod")]
#[test_case("istio-system/ztunnel", |_, c| c.cluster = Some("gone".to_owned()), POD_A, "impersonation_cluster"; "a cluster that is gone")]
#[test_case("istio-system/ztunnel", |t, _| t.pod_gone(pod("istio-system", "ztunnel-a", "12345", "ztunnel", Some("zt-node"), "Running")), POD_A, "impersonation_caller_not_seen"; "N6: the caller's pod is not there")]
#[test_case("istio-system/ztunnel", |_, c| c.pod.as_mut().unwrap().uid = "9".to_owned(), POD_A, "impersonation_caller_uid"; "N7: another uid")]
#[test_case("istio-system/ztunnel", |t, _| t.pod(pod("istio-system", "ztunnel-a", "12345", "other", Some("zt-node"), "Running")), POD_A, "impersonation_caller_account"; "N8: the caller's pod is of another account")]
#[test_case("istio-system/ztunnel", |t, _| t.pod(pod("istio-system", "ztunnel-a", "12345", "ztunnel", None, "Pending")), POD_A, "impersonation_caller_no_node"; "the caller's pod is not scheduled")]
#[test_case("istio-system/ztunnel", |t, _| t.pod(pod("istio-system", "ztunnel-a", "12345", "ztunnel", Some("zt-node"), "Failed")), POD_A, "impersonation_caller_no_node"; "the caller's pod has finished")]
#[test_case("istio-system/ztunnel", |_, c| c.node.as_mut().unwrap().name = "other-node".to_owned(), POD_A, "impersonation_caller_node"; "the token names another node")]
#[test_case("istio-system/ztunnel", |t, _| t.pod_gone(pod("ns-a", "pod-a", "1", "sa-a", Some("zt-node"), "Running")), POD_A, "impersonation_other_node"; "N5: the pod is on another node")]
#[test_case("istio-system/ztunnel", |_, _| {}, "spiffe://cluster.local/ns/ns-a/sa/sa-x", "impersonation_not_seen"; "istiod: no pod of that account")]
#[test_case("istio-system/ztunnel", |_, _| {}, "spiffe://cluster.local/ns/ns-x/sa/sa-a", "impersonation_not_seen"; "the same account of another namespace")]
#[test_case("istio-system/ztunnel", |t, _| t.pod(pod("ns-a", "pod-a", "1", "sa-a", Some("zt-node"), "Succeeded")), POD_A, "impersonation_finished"; "N9: only a pod that succeeded")]
#[test_case("istio-system/ztunnel", |t, _| t.pod(pod("ns-a", "pod-a", "1", "sa-a", Some("zt-node"), "Failed")), POD_A, "impersonation_finished"; "N9: only a pod that failed")]
#[tokio::test(start_paused = true)]
async fn who_may_not_ask_for_others(trusted: &str, change: Change, requested: &str, reason: &str) {
    let (authorizer, teller) = authorizer(trusted);
    upstream(&teller);
    let mut caller = ztunnel();
    change(&teller, &mut caller);
    // Whatever the CSR holds: impersonation is judged first.
    assert_eq!(verdict(&authorizer, &caller, Some(requested), POD_A).await, Err(reason));
}

#[tokio::test]
async fn n10_a_pending_pod_with_a_node_counts_and_a_terminating_one_until_it_is_gone() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    teller.pod(pod("ns-a", "pod-a", "1", "sa-a", Some("zt-node"), "Pending"));
    verdict(&authorizer, &ztunnel(), Some(POD_A), POD_A).await.unwrap();
    let mut terminating = pod("ns-a", "pod-a", "1", "sa-a", Some("zt-node"), "Running");
    terminating.delete_at("2020-01-01T00:00:00Z");
    teller.pod(terminating);
    verdict(&authorizer, &ztunnel(), Some(POD_A), POD_A).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_heard_of_late_is_granted_by_its_event() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    let late = "spiffe://cluster.local/ns/ns-b/sa/sa-b";
    let began = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        teller.pod(pod("ns-b", "b-1", "7", "sa-b", Some("other-node"), "Pending"));
        tokio::time::sleep(Duration::from_millis(400)).await;
        teller.pod(pod("ns-b", "b-2", "8", "sa-b", Some("zt-node"), "Pending"));
    };
    let caller = ztunnel();
    let (granted, ()) = tokio::join!(verdict(&authorizer, &caller, Some(late), late), later);
    granted.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(800));
}

#[tokio::test(start_paused = true)]
async fn the_answer_names_the_nodes_where_the_pods_are() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    for node in 0..8 {
        let (name, node) = (format!("c-{node}"), format!("n{node}"));
        teller.pod(pod("ns-c", &name, &name, "sa-c", Some(&node), "Running"));
    }
    let asked: SpiffeId = "spiffe://cluster.local/ns/ns-c/sa/sa-c".parse().unwrap();
    let outcome = authorizer
        .authorise(&trust_domain(), &ztunnel(), Some(asked.as_str()), &asked)
        .await;
    let text = outcome.unwrap_err().to_string();
    assert!(
        text.contains("zt-node") && text.contains("n0, n1, n2, n3, n4 and 3 more"),
        "{text}"
    );
}

/// A slip in the list is seen in the log of the first request.
#[tokio::test]
async fn who_is_not_trusted_is_told_beside_those_who_are() {
    let (authorizer, teller) = authorizer("kube-system/ztunnel, istio-system/istiod");
    upstream(&teller);
    let asked: SpiffeId = POD_A.parse().unwrap();
    let outcome = authorizer
        .authorise(&trust_domain(), &ztunnel(), Some(POD_A), &asked)
        .await;
    let text = outcome.unwrap_err().to_string();
    assert!(
        text.contains("istio-system/ztunnel is not one of")
            && text.contains("istio-system/istiod, kube-system/ztunnel"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_not_known_now_are_no_refusal() {
    let (authorizer, teller) = authorizer("istio-system/ztunnel");
    upstream(&teller);
    let ask = async |id: &str| {
        let asked: SpiffeId = id.parse().unwrap();
        let outcome = authorizer
            .authorise(&trust_domain(), &ztunnel(), Some(id), &asked)
            .await;
        match outcome {
            Ok(_) => "granted",
            Err(AuthzError::Impersonation(error)) if error.is_passing() => "away",
            Err(_) => "refused",
        }
    };
    let absent = "spiffe://cluster.local/ns/ns-a/sa/sa-x";
    assert_eq!((ask(POD_A).await, ask(absent).await), ("granted", "refused"));
    // A watch that just broke: what it knows counts, what it does not may well be there.
    teller.watch_is(WatchState::Broken { since: Instant::now() });
    assert_eq!((ask(POD_A).await, ask(absent).await), ("granted", "away"));
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(ask(POD_A).await, "away");
    teller.watch_is(WatchState::Starting);
    assert_eq!(ask(POD_A).await, "away");
}

/// TestMultiClusterNodeAuthorization.
#[tokio::test(start_paused = true)]
async fn each_cluster_answers_for_its_own_pods() {
    let (primary, in_primary) = live("primary");
    let (remote, in_remote) = live("remote");
    let (clusters, remove_remotes) = clusters(primary, &[remote]);
    let authorizer = Authorizer::new("istio-system/ztunnel".parse().unwrap(), clusters);
    upstream(&in_primary);
    in_remote.pod(pod(
        "istio-system",
        "ztunnel-r",
        "777",
        "ztunnel",
        Some("r-node"),
        "Running",
    ));
    in_remote.pod(pod("ns-r", "pod-r", "3", "sa-r", Some("r-node"), "Running"));
    let far = Caller {
        pod: Some(Bound {
            name: "ztunnel-r".to_owned(),
            uid: "777".to_owned(),
        }),
        node: None,
        cluster: Some("remote".to_owned()),
        ..ztunnel()
    };
    let pod_r = "spiffe://cluster.local/ns/ns-r/sa/sa-r";
    verdict(&authorizer, &ztunnel(), Some(POD_A), POD_A).await.unwrap();
    verdict(&authorizer, &far, Some(pod_r), pod_r).await.unwrap();
    assert_eq!(
        verdict(&authorizer, &ztunnel(), Some(pod_r), pod_r).await,
        Err("impersonation_not_seen"),
        "a remote pod through the primary"
    );
    assert_eq!(
        verdict(&authorizer, &far, Some(POD_A), POD_A).await,
        Err("impersonation_not_seen")
    );
    remove_remotes();
    assert_eq!(
        verdict(&authorizer, &far, Some(pod_r), pod_r).await,
        Err("impersonation_cluster")
    );
}

fn certificate(signers: &[&str]) -> Proof {
    Proof::Certificate(CertificateProof {
        signers: signers.iter().map(|name| name.parse().unwrap()).collect(),
        serial: "01".to_owned(),
    })
}

const POLICY: &str = r"
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
signers:
- name: foo
  local: {dir: /nowhere/foo}
- name: foo2
  local: {dir: /nowhere/foo2}
- name: bar
  local: {dir: /nowhere/bar}
rules:
- namespace: foo
  serviceAccounts: [a]
  signers: [foo, foo2, bar]
  default: foo
- namespace: bar
  serviceAccounts: [a]
  signers: [bar]
  default: bar
- namespace: ambiguous
  serviceAccounts: [a]
  signers: [foo, bar]
- namespace: fixed
  serviceAccounts: [a]
  signers: [foo]
  default: foo
  ignoreCertSigner: true
";

#[test_case(&["foo"], "foo", None, Ok("foo"); "renews with its own")]
#[test_case(&["foo"], "foo", Some("foo"), Ok("foo"); "asks for its own")]
#[test_case(&["foo"], "foo", Some("bar"), Err("certificate_of_other_signer"); "asks for another that a token would get")]
#[test_case(&["bar"], "foo", None, Ok("bar"); "renews with its own though another is the default")]
#[test_case(&["foo"], "bar", None, Err("signer_not_allowed"); "a signer that may not vouch for that identity")]
#[test_case(&["foo"], "bar", Some("bar"), Err("certificate_of_other_signer"); "the same and asks for the right one")]
#[test_case(&["foo"], "bar", Some("foo"), Err("signer_not_allowed"); "the same and asks for the wrong one")]
#[test_case(&["foo2", "foo"], "foo", None, Ok("foo"); "of two that share a root the default")]
#[test_case(&["foo2", "foo"], "foo", Some("foo2"), Ok("foo2"); "of two that share a root the wish")]
#[test_case(&["bar"], "ambiguous", None, Ok("bar"); "its own where there is no default")]
#[test_case(&["foo2"], "ambiguous", None, Err("signer_not_allowed"); "not its own where there is no default")]
#[test_case(&["foo"], "fixed", Some("foo"), Ok("foo"); "its own where wishes do not count")]
#[test_case(&["bar"], "fixed", Some("bar"), Err("certificate_of_other_signer"); "asks for its own where wishes do not count, and another would sign")]
#[test_case(&["bar"], "fixed", None, Err("certificate_of_other_signer"); "asks for none where wishes do not count, and another would sign")]
#[test_case(&["foo"], "nowhere", None, Err("no_rule"); "an identity without a rule")]
#[test_case(&[], "foo", None, Err("certificate_of_other_signer"); "a certificate of nobody")]
fn a_certificate_renews_with_its_own_signer_only(
    signers: &[&str],
    namespace: &str,
    wish: Option<&str>,
    expected: Result<&str, &str>,
) {
    let caller = Caller {
        proof: certificate(signers),
        ..ztunnel()
    };
    let policy = Policy::parse(POLICY).unwrap();
    let signer: Option<SignerName> = wish.map(|name| name.parse().unwrap());
    let granted = grant(
        &policy,
        &caller,
        Wish {
            namespace,
            service_account: "a",
            signer: signer.as_ref(),
            key_type: KeyType::P256,
            ttl_seconds: 0,
        },
    );
    let granted = granted
        .map(|grant| grant.signer.to_string())
        .map_err(|error| error.reason());
    assert_eq!(granted.as_deref().map_err(|reason| *reason), expected);
}
