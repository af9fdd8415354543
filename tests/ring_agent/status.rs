//! What operators and probes read.

use ensign_testkit::fake_ra::RaOutcome;
use ensign_testkit::metrics::get;
use ensign_testkit::{FakeRa, TestCa, eventually};
use serde_json::Value;
use tonic::Code;

use crate::agent::{Agent, bind, prepared};

/// Exit code, output and errors of `ensign-agent status` for this address.
async fn command(address: std::net::SocketAddr, more: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_ensign-agent"))
        .args(["status", "--status-addr", &address.to_string()])
        .args(more)
        .env_clear()
        .output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

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
    assert_eq!(bad["lastError"]["requestId"], FakeRa::REFUSED_REQUEST);
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

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_table_and_its_exit_code_says_how_it_is() {
    let agent = Agent::start(&["bad", "good"]).await;
    agent.certificate("good").await;
    agent.certificate("bad").await;
    let (code, table, said) = command(agent.status, &[]).await;
    assert_eq!(code, Some(0), "{table}{said}");
    assert!(
        table.contains("\nCERTIFICATE NAME") && table.contains("NOT AFTER"),
        "{table}"
    );
    let good = table.lines().find(|line| line.ends_with("fixed/good")).unwrap();
    assert!(
        good.starts_with("spiffe://cluster.local/ns/foo/sa/good  Leaf  active"),
        "{table}"
    );

    let (code, json, _) = command(agent.status, &["-o", "json"]).await;
    let read = ensign_operator::status::read(&json).unwrap();
    let names: Vec<_> = read
        .workloads
        .iter()
        .map(|workload| workload.workload.as_str())
        .collect();
    assert_eq!((code, names), (Some(0), vec!["fixed/bad", "fixed/good"]));
    let whole: Value = serde_json::from_str(&json).unwrap();
    assert!(
        whole["workloads"][0]["socket"].is_string(),
        "what the table leaves out is there: {json}"
    );

    agent
        .ra
        .script()
        .set_default(RaOutcome::Refuse(Code::PermissionDenied, "no".to_owned()));
    agent.list(&["bad@bar", "good"]).await;
    eventually("the refusal", async || {
        let _waiting = agent.envoy("bad").await.subscribe(&["default"]).await;
        let (code, table, _) = command(agent.status, &[]).await;
        let told = table.contains("permission_denied at ") && table.contains("policy");
        if code == Some(1) && told { Ok(()) } else { Err(table) }
    })
    .await;

    let status = agent.status;
    agent.stop().await;
    let (code, table, said) = command(status, &[]).await;
    assert_eq!((code, table.as_str()), (Some(2), ""));
    assert!(
        said.contains("no agent answers") && said.contains(&status.to_string()),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_without_being_an_agent_is_told_from_one() {
    let agent = Agent::start(&[]).await;
    let (code, _, said) = command(agent.admin, &[]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("404") && said.contains("no agent of Ensign"), "{said}");
    agent.stop().await;
}
