//! Values that do not fit are refused before anything is rendered, by a sentence that says what would.

use ensign_testbed::helm;
use serde_json::{Value, json};
use test_case::test_case;

use super::{OWN, Result, sets};

#[test_case(json!({ "agent": { "csi": { "tokenExpirationSeconds": 599 } } }), "at '/agent/csi/tokenExpirationSeconds': minimum: got 599, want 600"; "a token too short")]
#[test_case(json!({ "app": { "tls": { "trustDomian": "x" } } }), "at '/app/tls': additional properties 'trustDomian' not allowed"; "a typo")]
#[test_case(json!({ "nameOverride": "a.b" }), "at '/nameOverride': 'a.b' does not match pattern"; "a name that no Service may have")]
#[test_case(json!({ "nameOverride": "1st" }), "at '/nameOverride': '1st' does not match pattern"; "a name that begins with a digit")]
#[test_case(json!({ "nameOverride": "a".repeat(56) }), "at '/nameOverride': maxLength: got 56, want 55"; "a name too long for the Service of the metrics")]
#[test_case(json!({ "replicaCount": "two" }), "at '/replicaCount': got string, want integer"; "another type")]
#[test_case(json!({ "agent": { "kubeletDir": "var/lib/kubelet" } }), "at '/agent/kubeletDir'"; "a path that is not whole")]
#[test_case(json!({ "agent": { "updateStrategy": { "type": "Recreate" } } }), "value must be one of 'RollingUpdate', 'OnDelete'"; "no such strategy")]
#[test_case(json!({ "app": { "tls": { "servingTLSMinVersion": "VersionTLS11" } } }), "value must be one of '', 'VersionTLS12', 'VersionTLS13'"; "an old TLS")]
#[test_case(json!({ "rbac": { "modes": ["everything"] } }), "at '/rbac/modes/0': value must be one of 'pods'"; "no such mode")]
#[test_case(json!({ "rbac": { "signers": ["*"] } }), "at '/rbac/signers/0'"; "a wildcard of signers")]
#[test_case(json!({ "ra": { "config": { "log-level": "info" } } }), "'log-level' does not match pattern '^[A-Z][A-Z0-9_]*$'"; "no variable")]
#[test_case(json!({ "image": { "digest": "latest" } }), "at '/image/digest'"; "no digest")]
#[test_case(json!({ "app": { "server": { "caTrustedNodeAccounts": "ztunnel" } } }), "at '/app/server/caTrustedNodeAccounts'"; "an account without a namespace")]
#[test_case(json!({ "app": { "certmanager": { "additionalAnnotations": [{ "name": "a", "value": "b,c" }] } } }), "additionalAnnotations/0/value'"; "a comma in an annotation")]
#[tokio::test]
async fn the_schema_refuses(values: Value, sentence: &str) -> Result {
    refused(&values, sentence).await
}

#[test_case(json!({ "image": { "registry": "quay.io" } }), "image.registry: istio-csr puts it before a name that has a registry already; use imageRegistry"; "the registry that comes twice")]
#[test_case(json!({ "app": { "metrics": { "service": { "type": "NodePort" } } } }), "app.metrics.service.type: the Service for scrapers is headless"; "another Service for scrapers")]
#[test_case(json!({ "app": { "istio": { "revisions": ["a", "a"] } } }), "app.istio.revisions: a, a names a revision twice; name each once"; "a revision twice")]
#[test_case(json!({ "ra": { "policy": "x" } }), "app.certmanager.issuer.enabled: the policy file says who signs; set it to false"; "two who sign")]
#[test_case(json!({ "ra": { "config": { "EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API" } } }), "Istio's own configuration says who signs; set it to false"; "an issuer beside Istio's configuration")]
#[test_case(json!({ "app": { "certmanager": { "issuer": { "enabled": false } } } }), "nobody signs without it; name an issuer, or set app.runtimeConfiguration.name, ra.policy or ra.config.EXTERNAL_CA"; "nobody signs")]
#[test_case(json!({ "ra": { "config": { "ENSIGN_RA_METRICS_PORT": 1 } } }), "ra.config.ENSIGN_RA_METRICS_PORT: another value of the chart sets it, to 9402; change that one"; "a setting twice")]
#[test_case(json!({ "rbac": { "modes": ["issuer-reference"] } }), "rbac.modes: issuer-reference without a name would be for every issuer"; "issuers without names")]
#[test_case(json!({ "ra": { "existingConfigMap": "mine", "policy": "x" } }), "ra.existingConfigMap: it holds all settings of the RA"; "settings in two places")]
#[test_case(json!({ "ra": { "enabled": false } }), "agent.config.CA_ADDR: with ra.enabled=false it must name the authority"; "an agent without an authority")]
#[test_case(json!({ "ra": { "enabled": false }, "agent": { "enabled": false } }), "both are false, which installs nothing; enable one"; "nothing")]
#[test_case(json!({ "agent": { "config": { "TRUST_DOMAIN": "x" } } }), "agent.config.TRUST_DOMAIN: RA and agent must agree on it; use app.tls.trustDomain"; "two trust domains")]
#[test_case(json!({ "agent": { "config": { "ENSIGN_TOKEN_AUDIENCE": "x" } } }), "agent.config.ENSIGN_TOKEN_AUDIENCE: more than the agent must know it; use agent.csi.tokenAudience"; "an audience of the agent alone")]
#[test_case(json!({ "agent": { "config": { "ENSIGN_ADMIN_ADDR": "0.0.0.0:1" } } }), "agent.config.ENSIGN_ADMIN_ADDR: mounts and probes of the DaemonSet are for its default"; "a port that nobody probes")]
#[test_case(json!({ "agent": { "config": { "ENSIGN_DRAIN_TIMEOUT": "30s" } } }), "agent.config.ENSIGN_DRAIN_TIMEOUT: more than the agent must know it; use agent.drainTimeoutSeconds"; "a drain that kubelet does not know")]
#[test_case(json!({ "ra": { "config": { "ENSIGN_RA_DRAIN_TIMEOUT": "60s" } } }), "ra.config.ENSIGN_RA_DRAIN_TIMEOUT: kubelet must know it, too; use ra.drainTimeoutSeconds"; "a drain of the RA that kubelet does not know")]
#[test_case(json!({ "networkPolicy": { "enabled": true }, "agent": { "config": { "CA_ADDR": "istiod.istio-system.svc:15012" } } }), "networkPolicy.authorityPorts: agent.config.CA_ADDR, "; "a policy for another authority")]
#[test_case(json!({ "networkPolicy": { "enabled": true }, "agent": { "existingConfigMap": "mine" } }), "networkPolicy.authorityPorts: agent.config.CA_ADDR, agent.existingConfigMap or "; "a policy for nobody knows whom")]
#[test_case(json!({ "networkPolicy": { "enabled": true }, "ra": { "enabled": false }, "agent": { "config": { "CA_ADDR": "cert-manager-istio-csr.cert-manager.svc:443" } } }), "which no address tells; name it, such as 15012 for istiod, 6443 for istio-csr"; "a Service's port for its pods'")]
#[test_case(json!({ "agent": { "updateStrategy": { "rollingUpdate": { "maxUnavailable": 1 } } } }), "exactly one of maxSurge and maxUnavailable is 0"; "two ways to update")]
#[test_case(json!({ "agent": { "updateStrategy": { "rollingUpdate": { "maxSurge": "0%" } } } }), "exactly one of maxSurge and maxUnavailable is 0"; "no way to update")]
#[test_case(json!({ "agent": { "priorityClassName": "", "resourceQuota": { "enabled": true } } }), "agent.priorityClassName: the ResourceQuota is for pods of a priority"; "a quota for nobody")]
#[test_case(json!({ "global": { "platform": "opneshift" } }), "global.platform: opneshift is no platform"; "a platform with a slip")]
#[test_case(json!({ "agent": { "existingConfigMap": "mine", "config": { "SECRET_TTL": "1h" } } }), "agent.existingConfigMap: it holds all settings of the agent"; "the agent's settings in two places")]
#[tokio::test]
async fn the_chart_refuses(values: Value, sentence: &str) -> Result {
    refused(&values, sentence).await
}

#[tokio::test]
async fn all_mistakes_are_told_at_once() -> Result {
    let values = json!({ "image": { "registry": "quay.io" }, "ra": { "policy": "x" } });
    refused(&values, "- image.registry: ").await?;
    refused(&values, "- app.certmanager.issuer.enabled: ").await
}

#[tokio::test]
async fn what_fits_is_rendered() -> Result {
    for (_, values) in sets::all() {
        helm::template(OWN, &values).await?;
    }
    Ok(())
}

async fn refused(values: &Value, sentence: &str) -> Result {
    let error = helm::template(OWN, values).await.expect_err("rendered");
    let text = format!("{error:#}");
    assert!(text.contains(sentence), "{text}");
    Ok(())
}
