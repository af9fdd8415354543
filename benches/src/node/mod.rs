//! `make bench-node`: what a node's pods notice of their agent, from kubelet's call to the first secret, and what a bad one or
//! an upgrade does to the others.
//!
//! RA and agent are processes of the release build on this machine, the agent with `--source=csi`; kubelet is the test kit's, which
//! makes kubelet's calls on the agent's own sockets ([`bed`]). So no time here holds a container's start or a network
//! between node and RA. Victims and their kubelet share one process and the machine with everything else.

mod bed;
mod changes;
mod envoy;
mod first;
mod floods;
mod memory;

use self::bed::Bed;
use crate::report::Table;
use crate::scale::Scale;

/// Measures; each table is told as soon as it is there.
pub(crate) async fn run(scale: &Scale, mut tell: impl FnMut(Table)) -> anyhow::Result<()> {
    let mut bed = Bed::start().await?;
    tell(first::run(scale, &mut bed).await?);
    tell(memory::run(scale, &bed).await?);
    tell(floods::run(scale, &bed).await?);
    tell(changes::run(scale, &mut bed).await?);
    bed.finish().await
}
