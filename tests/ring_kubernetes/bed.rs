//! The test bed itself: what the other tests of this ring rely on.

use ensign_testbed::cluster::{Cluster, ClusterOptions};

type Result = anyhow::Result<()>;

#[tokio::test]
async fn a_cluster_starts() -> Result {
    let begin = std::time::Instant::now();
    let bed = Cluster::start(ClusterOptions::default()).await?;
    eprintln!("started in {:?}", begin.elapsed());
    let ca = bed.cluster_issuer("foo").await?;
    eprintln!("issuer ready {:?}", begin.elapsed());
    drop(ca);
    bed.finish().await
}
