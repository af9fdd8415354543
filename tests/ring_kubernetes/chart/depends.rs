//! What pods of ours depend on that other values say: the roots that the RA gives to the agents' namespace, and the time that
//! kubelet gives to a pod that stops.

use anyhow::Context as _;
use ensign_testbed::helm;
use serde_json::{Value, json};
use test_case::test_case;

use super::{OWN, Result};

#[test_case(json!({}), None; "all namespaces get them")]
#[test_case(json!({ "app": { "controller": { "configmapNamespaceSelector": "mesh=yes" } } }), Some("ensign-node"); "some do")]
#[test_case(json!({ "app": { "controller": { "configmapNamespaceSelector": "mesh" } }, "agent": { "namespace": { "name": "", "create": false } } }), Some(OWN); "all of ours in one namespace")]
#[test_case(json!({ "app": { "controller": { "configmapNamespaceSelector": "mesh" } }, "agent": { "enabled": false } }), None; "no agent")]
#[tokio::test]
async fn a_selector_of_namespaces_does_not_keep_the_roots_from_the_agents(
    values: Value,
    wanted: Option<&str>,
) -> Result {
    let objects = helm::template(OWN, &values).await?;
    let settings = &objects.object("ConfigMap", "ensign-ra")?.data["data"];
    assert_eq!(settings["ENSIGN_RA_AGENT_NAMESPACE"].as_str(), wanted);
    Ok(())
}

#[test_case(json!({}), [5, 15]; "as it is")]
#[test_case(json!({ "agent": { "drainTimeoutSeconds": 30 }, "ra": { "drainTimeoutSeconds": 60 } }), [30, 60]; "long drains")]
#[test_case(json!({ "agent": { "drainTimeoutSeconds": 30, "existingConfigMap": "mine" }, "ra": { "drainTimeoutSeconds": 60, "existingConfigMap": "mine" } }), [30, 60]; "settings that the chart does not know")]
#[tokio::test]
async fn a_pod_that_stops_has_time_for_its_drain(values: Value, seconds: [u64; 2]) -> Result {
    let objects = helm::template(OWN, &values).await?;
    for (kind, name, variable, drain) in [
        ("DaemonSet", "ensign-agent", "ENSIGN_DRAIN_TIMEOUT", seconds[0]),
        ("Deployment", "ensign-ra", "ENSIGN_RA_DRAIN_TIMEOUT", seconds[1]),
    ] {
        let pod = &objects.object(kind, name)?.data["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        // A variable of its own counts before any ConfigMap's.
        let variables = container["env"].as_array().context("no env")?;
        let told = variables.iter().find(|one| one["name"] == variable);
        assert_eq!(told.context("no drain")?["value"], format!("{drain}s"), "{name}");
        let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            .as_u64()
            .unwrap_or(0);
        let given = pod["terminationGracePeriodSeconds"]
            .as_u64()
            .context("no grace period")?;
        assert!(
            given >= pause + drain + 10,
            "{name}: {given} seconds for {pause} and {drain}"
        );
    }
    Ok(())
}
