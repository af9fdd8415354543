//! etcd forgets: everything before now is compacted away, so that who resumes a watch from before is told 410.

use anyhow::Context;
use serde_json::json;

use super::Cluster;
use crate::http;

impl Cluster {
    /// Compacts etcd up to its current revision, and says which that is. The API server's watch cache hides it from watches
    /// ([`ClusterOptions::watch_cache`](super::ClusterOptions::watch_cache)).
    pub async fn compact(&self) -> anyhow::Result<u64> {
        let etcd = self.ports.etcd.address();
        // Any question is answered with the revision; `AA==` is the key of one zero byte, which nobody has.
        let answer = http::post(etcd, "/v3/kv/range", &json!({ "key": "AA==" })).await?;
        let text = answer["header"]["revision"]
            .as_str()
            .context("etcd names no revision")?;
        let revision = text.parse().with_context(|| format!("{text:?} is no revision"))?;
        let request = json!({ "revision": text, "physical": true });
        http::post(etcd, "/v3/kv/compaction", &request).await?;
        Ok(revision)
    }
}
