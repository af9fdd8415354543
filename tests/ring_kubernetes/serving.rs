//! The serving certificate from a CA in a Secret that the replicas share, on a real API server, as the RA's account with
//! the mode of deploy/optional/rbac.yaml for that one Secret.

use std::{sync::Arc, time::Duration};

use ensign_pki::{SystemClock, crypto};
use ensign_ra::{
    kubernetes::{ClusterSource, Home, KubernetesMetrics, connect},
    leader::identity,
    serving::{Serving, ServingHost, ServingSource},
    signer::Host,
};
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Places},
    wait::{PATIENCE, until, until_true},
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Result<T = ()> = anyhow::Result<T>;

const SECRET: &str = "ensign-ra-serving";

/// One replica's serving certificate.
struct Replica {
    serving: Serving,
    config: Arc<ServerConfig>,
    host: Host,
}

impl Replica {
    async fn start(bed: &Cluster, namespace: &str, overlap: Duration) -> Result<Self> {
        let path = bed.folder().join("serving.kubeconfig");
        let source = ClusterSource::Kubeconfig { path, context: None };
        let home = Home {
            cluster: connect(&source, &KubernetesMetrics::default()).await?,
            namespace: namespace.to_owned(),
            istio_namespace: "istio-system".to_owned(),
            installation: "ensign".to_owned(),
            identity: identity(None),
        };
        let host = Host {
            cluster: Some(home.cluster.clone()),
            ..Host::alone(SystemClock::shared())
        };
        let source = ServingSource::CaSecret {
            name: SECRET.to_owned(),
            names: vec!["ensign-ra.ensign-system.svc".to_owned()],
            overlap,
        };
        let of = ServingHost {
            trust_domain: &"cluster.local".parse()?,
            host: &host,
            home: Some(&home),
            desk: None,
        };
        let serving = Serving::open(source, of).await?;
        let config = serving.server_config()?;
        Ok(Self { serving, config, host })
    }

    /// Its roots, once it has a certificate.
    async fn roots(&self) -> Result<String> {
        until("a serving certificate", PATIENCE, async || {
            anyhow::ensure!(self.serving.not_after().is_some(), "no certificate");
            Ok(self
                .serving
                .roots()
                .map(|roots| roots.pem().to_string())
                .unwrap_or_default())
        })
        .await
    }

    /// A handshake as a client that trusts `roots`.
    async fn handshake(&self, roots: &str) -> Result {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root?)?;
        }
        let client = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        let (near, far) = duplex(64 * 1024);
        let name = ServerName::try_from("ensign-ra.ensign-system.svc")?;
        let connect = TlsConnector::from(Arc::new(client)).connect(name, near);
        let accept = TlsAcceptor::from(Arc::clone(&self.config)).accept(far);
        let (connected, _) = tokio::join!(connect, accept);
        connected?;
        Ok(())
    }

    async fn stop(self) {
        self.host.stop.cancel();
        self.host.tasks.close();
        self.host.tasks.wait().await;
    }
}

/// A cluster, the RA's own namespace there, and what the audit log calls it.
async fn bed() -> Result<(Cluster, String, String)> {
    crypto::install_default();
    let bed = Cluster::start(ClusterOptions {
        cert_manager: false,
        ..ClusterOptions::default()
    })
    .await?;
    let namespace = bed.namespace("serving").await?;
    let account = Places::in_one(&namespace).grant(&bed, &["serving-secret"]).await?;
    std::fs::write(bed.folder().join("serving.kubeconfig"), account.kubeconfig)?;
    Ok((bed, namespace, account.username))
}

fn secrets(bed: &Cluster, namespace: &str) -> Api<Secret> {
    Api::namespaced(bed.admin(), namespace)
}

/// Values of a CA made elsewhere, in Istio's layout.
fn cacerts() -> (serde_json::Value, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "brought");
    let certificate = params.self_signed(&key).unwrap().pem();
    let data = json!({"stringData": {
        "ca-cert.pem": certificate, "ca-key.pem": key.serialize_pem(),
        "root-cert.pem": certificate, "cert-chain.pem": certificate,
    }});
    (data, certificate)
}

async fn patch(bed: &Cluster, namespace: &str, patch: &serde_json::Value) -> Result {
    secrets(bed, namespace)
        .patch(SECRET, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_replicas_that_start_at_once_one_makes_the_ca_and_all_use_it() -> Result {
    let (bed, namespace, user) = bed().await?;
    let mark = bed.audit().mark().await?;
    let replicas = join_all((0..8).map(|_| Replica::start(&bed, &namespace, Duration::ZERO))).await;
    let replicas: Vec<Replica> = replicas.into_iter().collect::<Result<_>>()?;
    let roots = replicas[0].roots().await?;
    for replica in &replicas {
        assert_eq!(replica.roots().await?, roots);
        replica.handshake(&roots).await?;
    }
    let secret = secrets(&bed, &namespace).get(SECRET).await?;
    let data = secret.data.unwrap_or_default();
    assert_eq!(
        data.keys().collect::<Vec<_>>(),
        ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]
    );
    let creators = secret.metadata.managed_fields.unwrap_or_default().len();
    assert_eq!(creators, 1, "one replica's values, whole");
    let requests = bed.audit().requests_by(&user).since(mark).await?;
    assert_eq!(
        requests.count("get", "secrets"),
        0,
        "read by the watch alone: {:?}",
        requests.counts()
    );

    // A replica that comes later uses it too, and one that stops takes nothing away.
    for replica in replicas {
        replica.stop().await;
    }
    let late = Replica::start(&bed, &namespace, Duration::ZERO).await?;
    assert_eq!(late.roots().await?, roots);
    late.stop().await;
    bed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_joins_first_and_a_damaged_one_changes_nothing() -> Result {
    let (bed, namespace, _) = bed().await?;
    // Brought by the operator before the RA.
    let (data, first) = cacerts();
    let mut secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": namespace}});
    secret["stringData"] = data["stringData"].clone();
    bed.apply_yaml(&secret.to_string()).await?;
    let replica = Replica::start(&bed, &namespace, Duration::from_secs(5)).await?;
    let first_roots = replica.roots().await?;
    replica.handshake(&first).await?;

    // Another key without its certificate, then without its key.
    let (data, second) = cacerts();
    patch(
        &bed,
        &namespace,
        &json!({"stringData": {"ca-key.pem": data["stringData"]["ca-key.pem"]}}),
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    patch(&bed, &namespace, &json!({"data": {"ca-key.pem": null}})).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        replica.roots().await?,
        first_roots,
        "half a CA is not used, and not replaced"
    );
    replica.handshake(&first).await?;

    // The whole of another: its root first, and the certificate under the old one until the overlap is over.
    patch(&bed, &namespace, &data).await?;
    until_true("both roots", PATIENCE, async || {
        Ok(replica.roots().await?.matches("BEGIN").count() == 2)
    })
    .await?;
    replica.handshake(&first).await?;
    until("the new CA", PATIENCE, async || replica.handshake(&second).await).await?;
    assert!(replica.handshake(&first).await.is_err());

    // Deleted: a new one is made, and the old certificate is shown until its root is out.
    secrets(&bed, &namespace)
        .delete(SECRET, &DeleteParams::default())
        .await?;
    until_true("the root of a new CA", PATIENCE, async || {
        Ok(replica.roots().await?.matches("BEGIN").count() == 2)
    })
    .await?;
    replica.handshake(&second).await?;
    until_true("the new CA alone", PATIENCE, async || {
        Ok(replica.roots().await?.matches("BEGIN").count() == 1)
    })
    .await?;
    replica.handshake(&replica.roots().await?).await?;
    replica.stop().await;
    bed.finish().await
}
