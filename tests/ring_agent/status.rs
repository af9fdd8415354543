//! What operators and probes read.

use ensign_testkit::fake_ra::RaOutcome;
use ensign_testkit::metrics::get;
use ensign_testkit::{FakeRa, TestCa, eventually};
use serde_json::Value;
use tonic::Code;

use crate::agent::{Agent, bind, prepared};

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_certificates_and_what_to_do() {
    let agent = Agent::start(&["bad", "good"]).await;
    agent.certificate("good").await;
    agent.ra.script().set_default(RaOutcome::Refuse(
        Code::PermissionDenied,
        "not <b>allowed</b>".to_owned(),
    ));
    agent.list(&["bad@bar", "good"]).await;
    let envoy = agent.envoy("bad").await;
    let status = eventually("the refusal", async || {
        // One that waits: a warm-up would begin later. The change may end a stream that was too early.
        let _waiting = envoy.subscribe(&["default"]).await;
        let status = agent.status_json().await;
        let seen = &status["workloads"][0]["certificates"][0];
        if seen["signer"] == "bar" && seen["lastError"]["reason"] == "permission_denied" {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
    .await;
    let bad = &status["workloads"][0]["certificates"][0];
    assert_eq!(bad["signer"], "bar");
    assert!(bad["lastError"]["next"].as_str().unwrap().contains("policy"), "{bad}");
    let good = &status["workloads"][1]["certificates"][0];
    assert_eq!(good["id"], "spiffe://cluster.local/ns/foo/sa/good");
    for field in ["serial", "notBefore", "notAfter", "renewAt"] {
        assert!(good[field].is_string(), "{field}: {good}");
    }
    assert!(status["outageBudgetSeconds"].as_u64().unwrap() > 3600, "{status}");
    assert_eq!(status["ready"], Value::Bool(true));

    let page = get(agent.status, "/status", Some("text/html")).await.unwrap();
    assert!(
        page.headers.contains("content-security-policy") && page.headers.contains("text/html"),
        "{}",
        page.headers
    );
    assert!(
        page.body.contains("fixed/good") && page.body.contains("not &lt;b&gt;allowed"),
        "{}",
        page.body
    );
    assert!(!page.body.contains("PRIVATE KEY") && !page.body.contains("a.test.token"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_not_on_the_admin_address() {
    let agent = Agent::start(&[]).await;
    assert_eq!(agent.page("/status").await.status, 404);
    assert_eq!(agent.page("/healthz").await.status, 200);
    assert_eq!(agent.page("/readyz").await.status, 200);
    let addresses = tokio::fs::read_to_string(agent.folder.path().join("addresses.json"))
        .await
        .unwrap();
    let addresses: Value = serde_json::from_str(&addresses).unwrap();
    assert_eq!(addresses["admin"], agent.admin.to_string());
    assert_eq!(addresses["status"], agent.status.to_string());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_the_roots_and_never_for_the_authority() {
    let mut ra = FakeRa::start(TestCa::new("mesh")).await;
    let folder = prepared(&ra, &["a"]).await;
    let root = folder.path().join("root.pem");
    tokio::fs::remove_file(&root).await.unwrap();
    ra.stop().await;
    let bound = bind(&ra, folder.path()).await.unwrap();
    let (admin, stop) = (bound.admin, bound.stop_token());
    let task = tokio::spawn(bound.run(None));
    let pending = get(admin, "/readyz", None).await.unwrap();
    assert_eq!(pending.status, 503);
    assert!(pending.body.starts_with("ca-roots: no roots yet"), "{}", pending.body);
    tokio::fs::write(&root, ra.serving_root_pem()).await.unwrap();
    eventually("readiness", async || {
        let answer = get(admin, "/readyz", None).await.unwrap();
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    stop.cancel();
    task.await.unwrap().unwrap();
    assert!(
        !tokio::fs::try_exists(folder.path().join("a.sock")).await.unwrap(),
        "the socket goes with the agent"
    );
}
