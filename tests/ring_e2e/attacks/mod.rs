//! What a pod that went bad can do to the agent of its node and to its neighbours: one node, the agent's limits as
//! deploy/daemonset.yaml sets them, and attackers that are root in their pods.
//!
//! What is refused is tried all at once, the floods come one after the other and go on. Meanwhile new pods get their first
//! certificates, and the agent is the same container as before, below its limit of memory. No time is asserted. docs/security.md names what
//! is shown here.

use anyhow::ensure;

use crate::alone::Alone;

mod crowds;
mod floods;
mod guard;
mod places;
mod pods;
#[cfg(feature = "aws-lc-rs")]
mod rsa;
mod scene;
mod symlinks;

use scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_bad_gets_nothing_of_others_and_harms_nobody() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let scene = Scene::open(&alone).await?;
    tokio::try_join!(
        places::its_own_socket_cannot_be_replaced(&scene),
        places::nobody_elses_socket_can_be_reached(&scene),
        places::kubelets_calls_cannot_be_forged(&scene),
        symlinks::they_lead_nowhere(&scene),
        crowds::names_of_sockets_are_names(&scene),
        crowds::keys_of_other_kinds_are_the_operators_to_allow(&scene),
    )?;
    scene.unharmed("after what was refused").await?;
    floods::none_of_them_drowns_anybody(&scene).await?;
    let volumes = scene.volumes().await?;
    ensure!(
        volumes == scene.neighbours(),
        "{volumes} volumes are left of {} neighbours",
        scene.neighbours()
    );
    crowds::five_hundred_volumes_are_not_too_many(&scene).await?;
    alone.finish().await
}
