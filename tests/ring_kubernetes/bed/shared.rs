//! The shared cluster: found by all, ended with the last, gone with its supervisor.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use ensign_testbed::{
    cluster::{SharedCluster, unique},
    wait::{self, PATIENCE},
};
use rustix::process::{Signal, kill_process};

use super::processes_of;

#[tokio::test]
async fn all_who_meet_share_one_cluster_that_ends_after_the_last_has_left() -> anyhow::Result<()> {
    let key = unique("meeting");
    let idle = Duration::from_secs(1);
    let (first, second) = tokio::try_join!(SharedCluster::meet(&key, idle), SharedCluster::meet(&key, idle))?;
    assert_eq!(first.server(), second.server());
    assert_eq!(first.supervisor()?, second.supervisor()?);
    let folder = first.folder().to_owned();
    first.finish().await?;
    second.namespace("still").await?;
    let third = SharedCluster::meet(&key, idle).await?;
    assert_eq!(third.server(), second.server());
    second.finish().await?;
    third.finish().await?;
    gone(&folder).await?;
    wait::until_true("its files to be removed", PATIENCE, async || Ok(!folder.exists())).await
}

#[tokio::test]
async fn a_user_who_fails_leaves_the_logs_to_be_read() -> anyhow::Result<()> {
    let idle = Duration::from_secs(1);
    let bed = SharedCluster::meet(&unique("meeting"), idle).await?;
    let folder = bed.folder().to_owned();
    drop(bed);
    gone(&folder).await?;
    ensure!(folder.join("audit.log").exists(), "the logs are gone");
    wait::until_true("the store to be removed", PATIENCE, async || {
        Ok(!folder.join("etcd").exists())
    })
    .await?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[tokio::test]
async fn a_supervisor_that_is_killed_takes_its_cluster_along_and_the_next_user_starts_anew() -> anyhow::Result<()> {
    let key = unique("meeting");
    let idle = Duration::from_secs(1);
    let bed = SharedCluster::meet(&key, idle).await?;
    let killed = bed.folder().to_owned();
    kill_process(bed.supervisor()?, Signal::KILL)?;
    gone(&killed).await?;
    drop(bed);
    let bed = SharedCluster::meet(&key, idle).await?;
    ensure!(bed.folder() != killed, "another cluster");
    ensure!(!killed.exists(), "the files of the dead one are removed");
    let folder = bed.folder().to_owned();
    bed.finish().await?;
    gone(&folder).await
}

async fn gone(folder: &Path) -> anyhow::Result<()> {
    wait::until("the cluster's processes to end", PATIENCE, async || {
        let left = processes_of(folder);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
