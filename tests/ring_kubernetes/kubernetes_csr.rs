//! Signer kubernetes-csr on the real API server, with the real cert-manager.

use ensign_testbed::cluster::{Cluster, ClusterOptions};

use crate::replica::{Replica, Wish, csr_signer};

type Result = anyhow::Result<()>;

#[tokio::test]
async fn cert_manager_signs_for_three_requests_and_no_read() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    let ca = bed.cluster_issuer("foo").await?;
    let kubeconfig = bed.kubeconfig_of_user("ensign-ra", Some("system:masters"))?;
    let replica = Replica::start(&bed, &kubeconfig, "ensign").await?;
    let foo = replica
        .open(&csr_signer("foo", "clusterissuers.cert-manager.io/foo", &ca.root_pem()))
        .await?;
    // The watches stand before we begin to count.
    Wish::new("foo", "warm-up").certificate(&foo).await?;
    replica.settled().await;
    let mark = bed.audit().mark().await?;
    for number in 0..5 {
        let reply = Wish::new("foo", &format!("app-{number}")).certificate(&foo).await?;
        assert_eq!(reply.elements.len(), 2);
    }
    replica.settled().await;
    let requests = bed.audit().requests_by(&replica.username).since(mark).await?;
    assert_eq!(
        requests.count("create", "certificatesigningrequests"),
        5,
        "{requests:?}"
    );
    assert_eq!(requests.count("update", "certificatesigningrequests/approval"), 5);
    assert_eq!(requests.count("delete", "certificatesigningrequests"), 5);
    assert_eq!(requests.0.len(), 15, "{requests:?}");
    eprintln!("{}", replica.metrics());
    bed.finish().await
}
