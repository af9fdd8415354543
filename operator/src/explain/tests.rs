//! Each diagnosis from facts that show it and nothing else.

use ensign_daemon::{Finding, Report, Verdict};
use serde_json::{Value, json};
use test_case::test_case;

use super::*;
use crate::access::Looked;
use crate::driver::tests::shipped;
use crate::status;

const POD: &str = "csi/foo/web-0/uid-1";

/// A pod of the injector's shape with a good certificate.
fn fine() -> Facts {
    Facts {
        pod: Pod {
            namespace: "foo".to_owned(),
            name: "web-0".to_owned(),
            uid: "uid-1".to_owned(),
            node: Some("node1".to_owned()),
            finished: false,
            waiting: false,
            volumes: vec![Volume {
                name: "workload-socket".to_owned(),
                attributes: [("signer".to_owned(), "foo".to_owned())].into(),
                mounted: true,
            }],
            proxy: Some(Proxy {
                mount: Some((
                    "workload-socket".to_owned(),
                    "/var/run/secrets/workload-spiffe-uds".to_owned(),
                )),
                socket_file: Some("ensign.sock".to_owned()),
            }),
        },
        driver: Looked::There(shipped()),
        registered: Looked::There(true),
        agent: Looked::There(Agent {
            namespace: "ensign-node".to_owned(),
            name: "ensign-agent-x".to_owned(),
            ready: true,
            trouble: None,
            status_port: 9403,
            audience: Some("istio-ca".to_owned()),
        }),
        mounts: Looked::There(Vec::new()),
        status: Some(Ok(said(&json!([certificate("active", &Value::Null)])))),
    }
}

fn certificate(state: &str, failure: &Value) -> Value {
    let until = if matches!(state, "waiting" | "issuing") {
        Value::Null
    } else {
        json!("2026-11-28T00:00:00Z")
    };
    json!({
        "id": "spiffe://cluster.local/ns/foo/sa/web", "signer": "foo", "state": state, "adopted": state == "adopted",
        "serial": "0a", "notBefore": null, "notAfter": until, "renewAt": "2026-11-27T12:00:00Z",
        "retryInSeconds": null, "lastError": failure,
    })
}

fn failed(reason: &str) -> Value {
    json!({ "reason": reason, "message": "no", "requestId": "0af7651916cd43dd", "at": "t", "next": "do this" })
}

fn said(certificates: &Value) -> status::Status {
    let status = json!({
        "version": "0", "now": "t", "authority": "ra:443", "ready": true, "pending": [], "outageBudgetSeconds": null,
        "workloads": [
            // Another pod's, whose uid begins alike.
            { "workload": format!("{POD}0/P-256"), "connections": 0, "streams": 0, "certificates": [] },
            { "workload": format!("{POD}/P-256"), "connections": 1, "streams": 2, "certificates": certificates },
        ],
    });
    status::read(&status.to_string()).unwrap()
}

fn status(facts: &mut Facts) -> &mut status::Status {
    facts.status.as_mut().unwrap().as_mut().unwrap()
}

fn failure(message: &str) -> Looked<Vec<MountFailure>> {
    failures(&[message])
}

/// The newest first.
fn failures(messages: &[&str]) -> Looked<Vec<MountFailure>> {
    let failure = |message: &&str| MountFailure {
        message: (*message).to_owned(),
        count: 3,
    };
    Looked::There(messages.iter().map(failure).collect())
}

/// A pod whose volumes are not all there yet, ours among the missing.
fn waiting() -> Facts {
    let mut facts = fine();
    facts.pod.waiting = true;
    status(&mut facts).workloads.clear();
    facts
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn a_pod_with_a_certificate_is_fine_and_it_says_until_when_and_from_whom() {
    let findings = judge(&fine());
    assert_eq!(codes(&findings), ["certificate"]);
    for part in [
        "2026-11-28T00:00:00Z",
        "signer foo",
        "spiffe://cluster.local/ns/foo/sa/web",
    ] {
        assert!(findings[0].cause.contains(part), "{findings:?}");
    }
    assert_eq!(Report::new("", findings).exit_code(), 0);
}

#[test_case(|f| f.pod.finished = true, &["pod_ended"], 0; "ended")]
#[test_case(|f| f.pod.volumes.clear(), &["no_template"], 1; "injected without our template")]
#[test_case(|f| { f.pod.volumes.clear(); f.pod.proxy = None; }, &["no_volume"], 1; "not injected at all")]
#[test_case(|f| f.pod.node = None, &["not_scheduled"], 1; "no node")]
#[test_case(|f| f.pod.volumes[0].mounted = false, &["volume_not_mounted", "certificate"], 1; "volume not mounted")]
#[test_case(|f| f.pod.proxy.as_mut().unwrap().mount = None, &["socket_not_used", "certificate"], 1; "not mounted by the proxy")]
#[test_case(|f| f.pod.proxy.as_mut().unwrap().socket_file = None, &["socket_not_used", "certificate"], 1; "another socket file")]
#[test_case(|f| f.pod.proxy.as_mut().unwrap().mount.as_mut().unwrap().1 = "/run/x".to_owned(), &["socket_not_used", "certificate"], 1; "another mount path")]
#[test_case(|f| f.driver = Looked::Missing, &["no_csidriver", "certificate"], 1; "no driver installed")]
#[test_case(|f| f.driver = Looked::Unreadable("403".to_owned()), &["unreadable", "certificate"], 2; "driver not readable")]
#[test_case(|f| { f.registered = Looked::There(false); f.status = None; }, &["not_registered"], 1; "driver not registered")]
#[test_case(|f| { f.registered = Looked::There(false); status(f).workloads.clear(); }, &["not_registered"], 1; "driver not registered, and so not published")]
#[test_case(|f| { f.registered = Looked::Missing; f.status = None; }, &["not_registered"], 1; "no CSINode")]
#[test_case(|f| { f.agent = Looked::Missing; f.registered = Looked::There(false); f.status = None; }, &["no_agent"], 1; "no agent is the cause of no driver")]
#[test_case(|f| f.agent = Looked::Unreadable("403".to_owned()), &["unreadable", "certificate"], 2; "agents not readable")]
#[test_case(|f| f.status = Some(Err("refused".to_owned())), &["agent_silent"], 2; "the agent cannot be asked")]
#[test_case(|f| f.mounts = Looked::Unreadable("403".to_owned()), &["unreadable", "certificate"], 2; "events not readable")]
#[test_case(|f| status(f).workloads.clear(), &["not_published"], 1; "not published")]
#[test_case(|f| status(f).workloads[1].certificates.clear(), &["nobody_asked"], 1; "nobody asked")]
#[test_case(|f| status(f).workloads[1].connections = 0, &["certificate", "no_envoy"], 0; "no Envoy there")]
fn each_diagnosis(change: fn(&mut Facts), expected: &[&str], exit_code: u8) {
    let mut facts = fine();
    change(&mut facts);
    let findings = judge(&facts);
    assert_eq!(codes(&findings), expected, "{findings:?}");
    for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Wrong) {
        assert!(!finding.cause.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
    assert_eq!(Report::new("", findings).exit_code(), exit_code);
}

#[test_case(None, "uses Istio's own CA"; "Istio's own name")]
#[test_case(Some("other.sock"), "does not start"; "another name")]
fn what_pilot_agent_does_without_the_socket_depends_on_the_name(file: Option<&str>, expected: &str) {
    for mounted in [false, true] {
        let mut facts = fine();
        let proxy = facts.pod.proxy.as_mut().unwrap();
        proxy.socket_file = file.map(str::to_owned);
        if !mounted {
            proxy.mount = None;
        }
        let findings = judge(&facts);
        assert!(findings[0].cause.ends_with(expected), "{findings:?}");
    }
}

#[test_case("active", "", &["certificate"]; "active")]
#[test_case("renewing", "", &["certificate"]; "renewing")]
#[test_case("adopted", "", &["certificate"]; "adopted")]
#[test_case("expired", "", &["expired"]; "expired")]
#[test_case("issuing", "", &["waiting"]; "issuing")]
#[test_case("backing off", "token", &["token"]; "token")]
#[test_case("backing off", "connect", &["ra_away"]; "connect")]
#[test_case("backing off", "unavailable", &["ra_away"]; "unavailable")]
#[test_case("backing off", "permission_denied", &["ra_refused"]; "permission denied")]
#[test_case("backing off", "unauthenticated", &["ra_refused"]; "unauthenticated")]
#[test_case("backing off", "failed_precondition", &["ra_refused"]; "failed precondition")]
#[test_case("backing off", "foreign_root", &["bad_certificate"]; "foreign root")]
#[test_case("backing off", "key", &["key"]; "key")]
#[test_case("backing off", "refused_by_envoy", &["refused_by_envoy"]; "envoy")]
fn each_state_of_a_certificate(state: &str, reason: &str, expected: &[&str]) {
    let failure = if reason.is_empty() { Value::Null } else { failed(reason) };
    let mut facts = fine();
    *status(&mut facts) = said(&json!([certificate(state, &failure)]));
    assert_eq!(codes(&judge(&facts)), expected);
}

#[test]
fn a_refusal_of_the_ra_names_code_request_and_where_to_look_for_it() {
    let mut facts = fine();
    *status(&mut facts) = said(&json!([certificate("backing off", &failed("permission_denied"))]));
    let findings = judge(&facts);
    let [finding] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert!(
        finding.cause.contains("permission_denied") && finding.cause.contains("0af7651916cd43dd"),
        "{finding:?}"
    );
    assert!(
        finding.cause.contains("serves until 2026-11-28T00:00:00Z"),
        "{finding:?}"
    );
    assert!(
        finding.fix.starts_with("do this") && finding.fix.contains("grep 0af7651916cd43dd"),
        "{finding:?}"
    );
}

#[test]
fn without_roots_the_failure_that_follows_is_not_told() {
    let mut facts = fine();
    *status(&mut facts) = said(&json!([certificate("waiting", &failed("connect"))]));
    status(&mut facts).pending.push(status::Pending {
        name: "ca-roots".to_owned(),
        reason: "no roots yet: /x is not there".to_owned(),
    });
    let findings = judge(&facts);
    assert_eq!(codes(&findings), ["no_roots"]);
    assert!(findings[0].cause.contains("/x"), "{findings:?}");
}

#[test]
fn an_agent_that_does_not_run_is_told_with_its_last_words() {
    let mut facts = fine();
    let Looked::There(agent) = &mut facts.agent else {
        panic!("no agent")
    };
    agent.trouble = Some("CrashLoopBackOff: exit code 1".to_owned());
    (facts.registered, facts.status) = (Looked::There(false), None);
    let findings = judge(&facts);
    assert_eq!(codes(&findings), ["agent_down"]);
    assert!(findings[0].cause.contains("CrashLoopBackOff"), "{findings:?}");
    assert!(
        findings[0].fix.contains("kubectl logs -n ensign-node ensign-agent-x"),
        "{findings:?}"
    );
}

/// By our agent.
const REFUSED: &str = "MountVolume.SetUp failed for volume \"workload-socket\" : rpc error: code = InvalidArgument desc = volume attribute \"sginer\" is unknown, expected only signer, keyType and socketName; correct volumeAttributes in the pod";
const NO_SECRET: &str = "MountVolume.SetUp failed for volume \"tls\" : secret \"web-tls\" not found";
/// By another driver, in words like ours.
const NO_DISK: &str = "MountVolume.MountDevice failed for volume \"pvc-7\" : rpc error: code = Internal desc = ebs.csi.aws.com: could not format \"/dev/xvdba\"; it is in use";
const TIMEOUT: &str = "Unable to attach or mount volumes: unmounted volumes=[tls workload-socket], unattached volumes=[tls workload-socket], failed to process volumes=[]: timed out waiting for the condition";

#[test]
fn a_refused_volume_is_told_in_the_refusals_own_words() {
    let mut facts = waiting();
    facts.mounts = failure(REFUSED);
    let findings = judge(&facts);
    assert_eq!(codes(&findings), ["mount_refused"]);
    assert!(
        findings[0].cause.contains("\"sginer\" is unknown") && findings[0].cause.contains("3 times"),
        "{findings:?}"
    );
    assert_eq!(findings[0].fix, "correct volumeAttributes in the pod");

    facts.mounts = failure("MountVolume.SetUp failed for volume \"config\" : configmap \"x\" not found");
    let findings = judge(&facts);
    assert_eq!(codes(&findings), ["mount_error", "not_published"]);
    assert!(findings[0].cause.contains("configmap"), "{findings:?}");

    // Of a pod that has started since, they are history.
    facts.pod.waiting = false;
    assert_eq!(codes(&judge(&facts)), ["not_published"]);
}

#[test_case(&[REFUSED, NO_SECRET], &["mount_refused", "mount_error"]; "ours is newer")]
#[test_case(&[NO_SECRET, REFUSED], &["mount_refused", "mount_error"]; "the other one is newer")]
#[test_case(&[TIMEOUT, NO_SECRET, REFUSED], &["mount_refused", "mount_error"]; "kubelet speaks of both since")]
#[test_case(&[REFUSED, REFUSED, TIMEOUT], &["mount_refused"]; "ours again and again")]
#[test_case(&[TIMEOUT], &["mount_error", "not_published"]; "kubelet alone")]
fn each_volume_that_fails_is_told_and_ours_first(messages: &[&str], expected: &[&str]) {
    let mut facts = waiting();
    facts.mounts = failures(messages);
    let findings = judge(&facts);
    assert_eq!(codes(&findings), expected, "{findings:?}");
}

#[test]
fn what_another_driver_says_is_not_taken_for_our_agents_word() {
    let mut facts = waiting();
    facts.mounts = failure(NO_DISK);
    let findings = judge(&facts);
    assert_eq!(codes(&findings), ["mount_error", "not_published"]);
    assert!(
        findings[0].cause.contains("another volume (3 times)") && findings[0].cause.contains("it is in use"),
        "{findings:?}"
    );
    assert!(!findings[0].fix.contains("agent"), "{findings:?}");

    // Nor is a driver that kubelet does not know ours.
    facts.registered = Looked::There(false);
    facts.mounts = failure(&NO_DISK.replace(
        "rpc error: code = Internal desc = ebs.csi.aws.com: could not format \"/dev/xvdba\"; it is in use",
        "driver name ebs.csi.aws.com not found in the list of registered CSI drivers",
    ));
    assert_eq!(codes(&judge(&facts))[..2], ["not_registered", "mount_error"]);
}

#[test]
fn what_failed_of_our_volume_before_the_agent_had_it_is_history() {
    let mut facts = fine();
    facts.pod.waiting = true;
    facts.mounts = failures(&[NO_SECRET, REFUSED]);
    assert_eq!(codes(&judge(&facts)), ["mount_error", "certificate"]);
    // Which of two it has, it does not say.
    let second = Volume {
        name: "second".to_owned(),
        ..facts.pod.volumes[0].clone()
    };
    facts.pod.volumes.push(second);
    assert_eq!(codes(&judge(&facts)), ["mount_refused", "mount_error", "certificate"]);
}

#[test]
fn that_our_agent_gives_no_answer_leads_to_it() {
    let mut facts = waiting();
    facts.mounts = failure(
        "MountVolume.SetUp failed for volume \"workload-socket\" : rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix /x/csi.sock: connect: connection refused\"",
    );
    let findings = judge(&facts);
    assert_eq!(codes(&findings), ["mount_error", "not_published"]);
    assert_eq!(findings[0].fix, "look at the agent on this node");
}

#[test]
fn that_kubelet_does_not_know_the_driver_is_told_once() {
    let mut facts = fine();
    (facts.pod.waiting, facts.status) = (true, None);
    facts.registered = Looked::There(false);
    facts.mounts = failure(
        "MountVolume.MountDevice failed for volume \"x\" : driver name csi.ensign.mesh not found in the list of registered CSI drivers",
    );
    assert_eq!(codes(&judge(&facts)), ["not_registered"]);
}
