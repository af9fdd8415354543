//! Each thing that a cluster may lack, from facts that lack it and nothing else.

use ensign_daemon::{Report, Verdict};
use ensign_testkit::TestCa;
use test_case::test_case;

use super::*;
use crate::access::Looked;
use crate::driver::tests::shipped;

/// A cluster in which everything is as it should be.
fn fine() -> Facts {
    Facts {
        agents: Looked::There(Agents {
            namespace: "ensign-node".to_owned(),
            name: "ensign-agent".to_owned(),
            desired: 2,
            current: 2,
            ready: 2,
            priority_class: Some("system-node-critical".to_owned()),
            audience: "istio-ca".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            authority: Authority {
                host: "ensign-ra.ensign-system.svc".to_owned(),
                port: 443,
                server_name: "ensign-ra.ensign-system.svc".to_owned(),
            },
        }),
        pod_security: Looked::There("privileged".to_owned()),
        quota: Looked::There(false),
        gke: false,
        driver: Looked::There(shipped()),
        roots: Looked::There(Roots {
            place: "ConfigMap ensign-node/istio-ca-root-cert, key root-cert.pem".to_owned(),
            pem: Some(TestCa::new("ra").root_pem()),
        }),
        service: Looked::There(Service {
            namespace: "ensign-system".to_owned(),
            name: "ensign-ra".to_owned(),
            ports: vec![443],
            pods: vec![("ensign-ra-x".to_owned(), 6443)],
        }),
        ra: Looked::There(Ra {
            namespace: "ensign-system".to_owned(),
            audiences: vec!["istio-ca".to_owned()],
            signers: Signers {
                names: vec!["foo".to_owned(), "bar".to_owned()],
                unread: Vec::new(),
            },
        }),
    }
}

fn agents(facts: &mut Facts) -> &mut Agents {
    let Looked::There(agents) = &mut facts.agents else {
        panic!("no agents")
    };
    agents
}

fn service(facts: &mut Facts) -> &mut Service {
    let Looked::There(service) = &mut facts.service else {
        panic!("no service")
    };
    service
}

fn asked(answer: Answer) -> Vec<Asked> {
    vec![Asked {
        account: "foo/web".to_owned(),
        signer: Some("foo".to_owned()),
        answer,
    }]
}

fn issued() -> Answer {
    Ok(Issued {
        id: "spiffe://cluster.local/ns/foo/sa/web".to_owned(),
        until: "2026-11-28T00:00:00Z".to_owned(),
    })
}

fn refused(reason: &str) -> Answer {
    Err(Refused {
        reason: reason.to_owned(),
        message: "no".to_owned(),
        request_id: Some("0af7651916cd43dd".to_owned()),
    })
}

fn report(facts: &Facts, asked: Option<&[Asked]>) -> Report {
    Report::new("cluster", judge(facts, asked))
}

fn codes_but_ok(report: &Report) -> Vec<&'static str> {
    let others = report.findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
    others.map(|finding| finding.code).collect()
}

#[test]
fn a_cluster_that_has_all_is_fine_and_each_part_is_named() {
    let report = report(&fine(), Some(&asked(issued())));
    let codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["agents", "csidriver", "service", "roots", "signer"]);
    assert_eq!(report.exit_code(), 0);
}

#[test_case(|f| f.agents = Looked::Missing, &["no_daemonset"], 1; "no DaemonSet")]
#[test_case(|f| f.agents = Looked::Unreadable("403".to_owned()), &["unreadable"], 2; "DaemonSet not readable")]
#[test_case(|f| agents(f).desired = 0, &["no_nodes"], 1; "no nodes")]
#[test_case(|f| agents(f).current = 1, &["agents_missing"], 1; "pods not admitted")]
#[test_case(|f| agents(f).ready = 1, &["agents_not_ready"], 1; "not ready")]
#[test_case(|f| f.pod_security = Looked::There("baseline".to_owned()), &["pod_security"], 1; "pod security forbids")]
#[test_case(|f| f.pod_security = Looked::Missing, &["pod_security"], 0; "pod security not said")]
#[test_case(|f| f.gke = true, &["quota"], 1; "GKE without quota")]
#[test_case(|f| { f.gke = true; f.quota = Looked::There(true); }, &[], 0; "GKE with quota")]
#[test_case(|f| { f.gke = true; agents(f).priority_class = None; }, &[], 0; "GKE without priority class")]
#[test_case(|f| f.driver = Looked::Missing, &["no_csidriver"], 1; "no driver")]
#[test_case(|f| agents(f).audience = "other".to_owned(), &["audience", "ra_audience"], 1; "three audiences")]
#[test_case(|f| f.ra = Looked::Missing, &["no_ra"], 0; "another authority")]
#[test_case(|f| f.ra = Looked::Unreadable("403".to_owned()), &["unreadable"], 2; "RA not readable")]
#[test_case(|f| f.service = Looked::Missing, &["no_service"], 1; "no Service")]
#[test_case(|f| service(f).ports = vec![15012], &["no_service"], 1; "another port")]
#[test_case(|f| service(f).pods.clear(), &["no_endpoints"], 1; "no pods")]
#[test_case(|f| f.service = Looked::Unreadable("outside".to_owned()), &["unreadable"], 2; "outside the cluster")]
#[test_case(|f| f.roots = Looked::There(Roots { place: "p".to_owned(), pem: None }), &["no_roots"], 1; "no roots")]
#[test_case(|f| f.roots = Looked::There(Roots { place: "p".to_owned(), pem: Some("no".to_owned()) }), &["bad_roots"], 1; "bad roots")]
#[test_case(|f| f.roots = Looked::Unreadable("403".to_owned()), &["unreadable"], 2; "roots not readable")]
fn each_lack(change: fn(&mut Facts), expected: &[&str], exit_code: u8) {
    let mut facts = fine();
    change(&mut facts);
    let report = report(&facts, Some(&[]));
    assert_eq!(codes_but_ok(&report), expected, "{report:?}");
    for finding in report.findings.iter().filter(|finding| finding.verdict != Verdict::Ok) {
        assert!(!finding.cause.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
    assert_eq!(report.exit_code(), exit_code);
}

#[test_case("permission_denied", "signer_not_allowed", 0; "the policy's word is not a mistake")]
#[test_case("unauthenticated", "signer", 1; "token refused")]
#[test_case("failed_precondition", "signer", 1; "signer failed")]
#[test_case("foreign_root", "signer", 1; "not fit to be served")]
#[test_case("connect", "ra_away", 1; "roots or name")]
#[test_case("token_request", "no_token", 2; "no right to a token")]
#[test_case("forward", "ra_unseen", 2; "no right to a port")]
fn each_answer_of_a_signer(reason: &str, code: &str, exit_code: u8) {
    let report = report(&fine(), Some(&asked(refused(reason))));
    assert_eq!(codes_but_ok(&report), [code]);
    assert_eq!(report.exit_code(), exit_code);
    let finding = report.findings.last().unwrap();
    assert!(
        finding.cause.contains("0af7651916cd43dd") && finding.cause.contains("foo/web"),
        "{finding:?}"
    );
}

#[test]
fn unless_an_account_is_named_no_signer_is_asked_and_that_is_said() {
    let report = report(&fine(), None);
    assert_eq!(codes_but_ok(&report), ["signers_not_asked"]);
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn that_there_may_be_signers_that_were_not_asked_is_said_unless_they_were_named() {
    let mut facts = fine();
    let Looked::There(ra) = &mut facts.ra else {
        panic!("no RA")
    };
    ra.signers
        .unread
        .push("the mesh configuration x/y cannot be read: 403".to_owned());
    let mut asked = asked(issued());
    assert_eq!(report(&facts, Some(&asked)).exit_code(), 0, "one was named");
    asked[0].signer = None;
    let report = report(&facts, Some(&asked));
    assert_eq!(codes_but_ok(&report), ["signers_unknown"]);
    assert_eq!(report.exit_code(), 2);
    let finding = report.findings.last().unwrap();
    assert!(
        finding.cause.contains("x/y cannot be read: 403") && finding.fix.contains("--signer"),
        "{finding:?}"
    );
}

#[test]
fn asked_are_the_named_signers_else_the_default_and_the_ras() {
    let all = [None, Some("foo".to_owned()), Some("bar".to_owned())];
    assert_eq!(signers(&fine(), &[]), all);
    assert_eq!(signers(&fine(), &["x".to_owned()]), [Some("x".to_owned())]);
    let mut facts = fine();
    facts.ra = Looked::Missing;
    assert_eq!(signers(&facts, &[]), [None]);
}

#[test_case("foo/web", true)]
#[test_case("web", false)]
#[test_case("/web", false)]
#[test_case("foo/", false)]
#[test_case("a/b/c", false)]
fn accounts(text: &str, good: bool) {
    assert_eq!(text.parse::<Account>().is_ok(), good);
}
