//! The agent's commands of people, as an administrator of a cluster runs them.

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    cluster::Access,
    process::own_binary,
    wait::{self, PATIENCE},
};

/// Whoever has the cluster's kubeconfig.
#[derive(Clone)]
pub struct Operator<'a>(&'a Access);

// === impl Operator ===

impl<'a> Operator<'a> {
    /// Of this cluster.
    pub fn new(cluster: &'a Access) -> Self {
        Self(cluster)
    }

    /// Exit code, what was printed, and what was said beside it.
    pub async fn run(&self, words: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let output = Command::new(own_binary("ensign-agent")?)
            .args(words)
            .arg("--kubeconfig")
            .arg(self.0.admin_kubeconfig())
            .env_clear()
            .output()
            .await
            .context("cannot run ensign-agent")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().context("it was killed")?;
        Ok((code, text(&output.stdout), text(&output.stderr)))
    }

    /// Exit code and findings, each with `code`, `cause` and `fix`.
    pub async fn findings(&self, words: &[&str]) -> anyhow::Result<(i32, Vec<Value>)> {
        let (code, text, said) = self.run(&[words, &["-o", "json"]].concat()).await?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("{text}{said}"))?;
        Ok((code, report["findings"].as_array().cloned().unwrap_or_default()))
    }

    /// What is found of a pod.
    pub async fn explain(&self, namespace: &str, pod: &str) -> anyhow::Result<(i32, Vec<Value>)> {
        self.findings(&["explain", pod, "-n", namespace]).await
    }

    /// Waits until a pod is explained by exactly these codes.
    pub async fn explained(&self, namespace: &str, pod: &str, expected: &[&str]) -> anyhow::Result<(i32, Vec<Value>)> {
        wait::until(
            &format!("{pod} to be explained by {expected:?}"),
            PATIENCE,
            async || {
                let (code, findings) = self.explain(namespace, pod).await?;
                ensure!(codes(&findings) == expected, "{findings:#?}");
                Ok((code, findings))
            },
        )
        .await
    }
}

/// The codes of findings, in order.
pub fn codes(findings: &[Value]) -> Vec<&str> {
    findings.iter().filter_map(|finding| finding["code"].as_str()).collect()
}

/// The name of a request that an authority refused, by the finding `ra_refused`: its log has the reason under it.
pub fn request_id(finding: &Value) -> Option<&str> {
    finding["cause"].as_str()?.rsplit("request ").next()?.split(',').next()
}
