//! Three workloads with real tokens of the cluster: httpbin and sleep of foo, ratings of bar. One agent has a socket for each, and
//! behind each socket is an Envoy.
//!
//! None of them names a signer: which one they get is the RA's choice, by the ProxyConfig of their namespace.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::{
    cluster::{Access, TokenOf},
    envoy::{Envoy, EnvoySpec},
    folder::write_atomically,
    process::{Program, Spec, own_binary},
    story::Story,
};

/// Namespace and account.
const WORKLOADS: [(&str, &str); 3] = [("foo", "httpbin"), ("foo", "sleep"), ("bar", "ratings")];
/// By which name they call the RA; of its serving certificate.
const RA: &str = "ensign-ra.ensign-system.svc";

/// The agent and the Envoys. They end when it is dropped.
pub(super) struct Residents {
    httpbin: Envoy,
    ratings: Envoy,
    sleep: Envoy,
    _agent: Program,
    status: SocketAddr,
    folder: PathBuf,
}

// === impl Residents ===

impl Residents {
    /// Starts them, and waits until each Envoy has its certificate.
    pub(super) async fn settle(access: &Access, ra: SocketAddr, root: &str) -> anyhow::Result<Self> {
        let folder = access.folder().join("town");
        write_atomically(&folder.join("ra-root.pem"), root.as_bytes())?;
        let mut entries = Vec::new();
        for (namespace, name) in WORKLOADS {
            access.service_account(namespace, name).await?;
            let pod = access.pod(namespace, name, name, "node-1").await?;
            let of = TokenOf::new(namespace, name).pod(&pod).expiry(Duration::from_hours(24));
            let token = folder.join(format!("{name}.token"));
            write_atomically(&token, access.token(&of).await?.as_bytes())?;
            entries.push(json!({
                "name": name, "namespace": namespace, "serviceAccount": name, "tokenFile": token,
                "socket": folder.join(format!("{name}.sock")),
            }));
        }
        let workloads = json!({ "apiVersion": "ensign.mesh/v1", "workloads": entries });
        write_atomically(&folder.join("workloads.yaml"), workloads.to_string().as_bytes())?;
        let mut agent = Program::start(agent(&folder, ra)?, &folder)?;
        let addresses = agent.addresses(&folder.join("agent.addresses")).await?;
        let status = *addresses.get("status").context("the agent has no address `status`")?;

        let envoy =
            |namespace: &str, name: &str| EnvoySpec::new(name, namespace, name, folder.join(format!("{name}.sock")));
        let httpbin = Envoy::start(envoy("foo", "httpbin").serving(), &folder).await?;
        let ratings = Envoy::start(envoy("bar", "ratings").serving(), &folder).await?;
        let sleep = envoy("foo", "sleep")
            .calling(
                "httpbin",
                httpbin.inbound()?,
                "spiffe://cluster.local/ns/foo/sa/httpbin",
            )
            .calling(
                "ratings",
                ratings.inbound()?,
                "spiffe://cluster.local/ns/bar/sa/ratings",
            );
        let sleep = Envoy::start(sleep, &folder).await?;
        for one in [&httpbin, &ratings, &sleep] {
            one.ready().await?;
            ensure!(
                !one.admin().certificates().await?.is_empty(),
                "{} has no certificate",
                one.name()
            );
        }
        Ok(Self {
            httpbin,
            ratings,
            sleep,
            _agent: agent,
            status,
            folder,
        })
    }

    /// Says where they are and what to try.
    pub(super) fn introduce(&self, story: &mut Story) -> anyhow::Result<()> {
        story.tell(&format!("the agent's page: http://{}/status", self.status));
        for (envoy, signer) in [(&self.httpbin, "foo"), (&self.sleep, "foo"), (&self.ratings, "bar")] {
            let name = envoy.name();
            story.tell(&format!(
                "{name} has a certificate of {signer}: socket {}, Envoy http://{}/certs",
                self.folder.join(format!("{name}.sock")).display(),
                envoy.admin().address()
            ));
        }
        let [_, (_, httpbin), (_, ratings)] = self.urls()?;
        story.tell(&format!(
            "sleep calls httpbin over mTLS, and is answered: curl -i {httpbin}"
        ));
        story.tell(&format!(
            "sleep calls ratings, whose signer it does not trust: curl -i {ratings}"
        ));
        Ok(())
    }

    /// The same for a script.
    pub(super) fn variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        Ok(self.urls()?.into())
    }

    fn urls(&self) -> anyhow::Result<[(&'static str, String); 3]> {
        Ok([
            ("AGENT", format!("http://{}/status", self.status)),
            ("HTTPBIN", format!("http://{}/", self.sleep.outbound("httpbin")?)),
            ("RATINGS", format!("http://{}/", self.sleep.outbound("ratings")?)),
        ])
    }
}

fn agent(folder: &std::path::Path, ra: SocketAddr) -> anyhow::Result<Spec> {
    let path = |name: &str| folder.join(name).display().to_string();
    let args = [
        "--source=fixed".to_owned(),
        format!("--workloads-file={}", path("workloads.yaml")),
        "--admin-addr=127.0.0.1:0".to_owned(),
        "--status-addr=127.0.0.1:0".to_owned(),
        format!("--addresses-file={}", path("agent.addresses")),
        "--log-format=json".to_owned(),
    ];
    Ok(Spec {
        name: "agent".to_owned(),
        binary: own_binary("ensign-agent")?,
        args: args.into(),
        env: BTreeMap::from([
            ("CA_ADDR".to_owned(), ra.to_string()),
            ("CA_ROOT_CA".to_owned(), path("ra-root.pem")),
            ("ISTIOD_SAN".to_owned(), RA.to_owned()),
        ]),
    })
}
