//! A node whose seccomp profile knows no Landlock: the agent works as elsewhere, without its fence, and does not keep that to itself.

use anyhow::ensure;
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use serde_json::{Value, json};

use crate::agents::{agents, change, name, rolled_out};
use crate::alone::{Alone, PLACE};

/// Where kubelet looks for profiles of the node's own.
const PROFILES: &str = "/var/lib/kubelet/seccomp";

#[tokio::test(flavor = "multi_thread")]
async fn without_landlock_the_agent_says_so_and_serves_all_the_same() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let place = alone.cluster.namespace("foo").await?;
    // As long as nothing forbids it, the fence is there.
    ensure!(fence(&alone).await? > Some(0.0), "no fence to begin with");
    ensure!(
        !alone.log(PLACE, "ensign-agent").contains("not fenced"),
        "it says that there is none"
    );

    let profiles = alone.node.path(PROFILES);
    std::fs::create_dir_all(&profiles)?;
    std::fs::write(profiles.join("no-landlock.json"), profile().to_string())?;
    let before: Vec<_> = agents(&alone).await?.iter().map(name).collect();
    let confined = json!({ "spec": { "containers": [{ "name": "agent", "securityContext": {
        "seccompProfile": { "type": "Localhost", "localhostProfile": "no-landlock.json" },
    } }] } });
    change(&alone, confined).await?;
    rolled_out(&alone, &before).await?;

    until("the metric to say so", PATIENCE, async || {
        let seen = fence(&alone).await?;
        ensure!(seen == Some(0.0), "it is {seen:?}");
        Ok(())
    })
    .await?;
    let log = alone.log(PLACE, "ensign-agent");
    let said = log
        .lines()
        .any(|line| line.contains("WARN") && line.contains("not fenced"));
    ensure!(said, "its log:\n{log}");

    let pod = alone.pod(&place, "httpbin", json!({ "signer": "foo" })).await?;
    let mut stream = alone.envoy(&pod).await?.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    alone.delete(&place, "httpbin").await?;
    alone.finish().await
}

async fn fence(alone: &Alone) -> anyhow::Result<Option<f64>> {
    Ok(alone.metrics().await?.sum("ensign_agent_fence", &[]))
}

/// Everything but Landlock. The error is that of a call which a profile does not list.
fn profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{
            "names": ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
        }],
    })
}
