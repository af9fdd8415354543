//! Publishing and unpublishing: from kubelet's call to the events that bind and close a pod's socket.
//!
//! Promises: a publish answers when the socket listens, and never waits for the authority. After its first success a publish
//! never fails, because kubelet would remove the folder that running containers hold: what is wrong goes to the log and the
//! metrics. The folder is made once. An unpublish goes by the path alone and succeeds for whatever is gone already.
//! A call that kubelet gives up is carried to its end, so that no volume stays half done. What passes from one agent to the
//! next is [`handover`]'s.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use ensign_pki::SharedClock;
use ensign_proto::csi::v1::NodePublishVolumeRequest;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::metrics::Metrics;
use super::refusal::Refusal;
use super::request::{self, Publish, Volume};
use super::state::Saver;
use super::table::{Begun, Published, Table};
use super::target::{Folders, Target};
use super::{Config, METHOD_PUBLISH, METHOD_UNPUBLISH};
use crate::source::{Event, Notice, Notices, Socket, Workload};

mod handover;

/// The volumes of this node.
#[derive(Debug)]
pub(super) struct Volumes {
    config: Config,
    folders: Folders,
    table: Table,
    saver: Saver,
    metrics: Metrics,
    /// Calls under way.
    calls: TaskTracker,
    /// Set when the source begins to run.
    notices: OnceLock<Notices>,
    /// What was in the state at our start; an agent beside us may go on changing that.
    at_our_start: Mutex<BTreeSet<Target>>,
}

/// Any user of the pod may speak to its Envoy's agent; nobody else sees the folder.
const SOCKET_MODE: u32 = 0o666;

// === impl Volumes ===

impl Volumes {
    pub(super) fn new(config: Config, clock: SharedClock, saver: Saver, metrics: Metrics) -> Self {
        Self {
            folders: Folders::new(&config.kubelet_dir),
            table: Table::new(clock),
            saver,
            metrics,
            calls: TaskTracker::new(),
            notices: OnceLock::new(),
            at_our_start: Mutex::default(),
            config,
        }
    }

    /// From now on notices can be sent.
    pub(super) fn connect(&self, notices: Notices) {
        // Once, when the source begins to run.
        let _ = self.notices.set(notices);
    }

    /// Waits until no call is under way.
    pub(super) async fn calls_ended(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Kubelet's NodePublishVolume.
    pub(super) async fn publish(self: &Arc<Self>, request: NodePublishVolumeRequest) -> Result<(), Refusal> {
        let this = Arc::clone(self);
        let done = self.calls.spawn(async move { this.publish_to_the_end(request).await });
        done.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Kubelet's NodeUnpublishVolume.
    pub(super) async fn unpublish(self: &Arc<Self>, volume_id: String, path: String) -> Result<(), Refusal> {
        let this = Arc::clone(self);
        let done = self.calls.spawn(async move {
            let outcome = this.unpublish_to_the_end(&volume_id, &path).await;
            this.called(METHOD_UNPUBLISH, &path, outcome.as_ref().err());
            outcome
        });
        done.await.unwrap_or(Err(Refusal::Stopping))
    }

    async fn publish_to_the_end(&self, request: NodePublishVolumeRequest) -> Result<(), Refusal> {
        let path = request.target_path.clone();
        let outcome = match self.folders.target(&path) {
            Err(refusal) => Err(refusal),
            Ok(target) => match self.table.begin(&target) {
                Err(refusal) => Err(refusal),
                Ok(Begun::New(token)) => {
                    let there = self.folders.inode(&target).is_some();
                    let outcome = self.publish_first(&target, token, request).await;
                    if outcome.is_err() {
                        self.table.remove(&target);
                    }
                    // An agent whose state is lost published it, and running containers may hold the folder.
                    outcome.map_err(|refusal| if there { refusal.keeping_the_folder() } else { refusal })
                }
                Ok(Begun::UnderWay) => Ok(()),
                Ok(Begun::Again(mut published)) => {
                    let outcome = self.publish_again(&target, &mut published, request).await;
                    self.table.put(&target, *published);
                    if let Err(refusal) = outcome {
                        tracing::warn!(
                            volume = %target, reason = refusal.reason(), error = %refusal,
                            "publish was wrong, the volume stays as it is"
                        );
                        self.metrics.called(METHOD_PUBLISH, "kept");
                        return Ok(());
                    }
                    Ok(())
                }
            },
        };
        self.called(METHOD_PUBLISH, &path, outcome.as_ref().err());
        outcome
    }

    async fn publish_first(
        &self,
        target: &Target,
        token: Arc<super::token::PodToken>,
        request: NodePublishVolumeRequest,
    ) -> Result<(), Refusal> {
        let Publish { volume, token: brought } = Publish::read(request, target, &self.config)?;
        token.put(brought);
        let made = self.folders.make(target)?;
        let published = Published {
            volume,
            told: token.number(),
            token,
            folder: Some(made.inode),
            bound: true,
            // Else an agent made it whose state is lost.
            returning: !made.new,
        };
        let event = Event::Appeared(self.workload(target, &published));
        if let Err(refusal) = self.tell(event).await {
            if made.new
                && let Err(left) = self.folders.clear(target)
            {
                tracing::debug!(volume = %target, error = %left, "folder of a failed publish stays");
            }
            return Err(refusal);
        }
        let pod = &published.volume.pod;
        tracing::info!(
            volume = %target, namespace = pod.namespace, pod = pod.name, account = pod.service_account,
            signer = published.volume.signer.as_ref().map(ToString::to_string), "volume published"
        );
        self.table.put(target, published);
        self.save().await;
        Ok(())
    }

    /// Kubelet looks at the pod again: a new token, and whatever has to be mended.
    async fn publish_again(
        &self,
        target: &Target,
        published: &mut Published,
        mut request: NodePublishVolumeRequest,
    ) -> Result<(), Refusal> {
        // The token first, whatever else may be wrong.
        let outcome = match request::token(&mut request, &self.config.audience) {
            Ok(Some(brought)) => {
                published.token.put(brought);
                Ok(())
            }
            Ok(None) => Err(Refusal::no_token(&self.config.audience)),
            Err(refusal) => Err(refusal),
        };
        self.mended(target, published).await?;
        outcome
    }

    /// Folder and socket are there, and a new token is made known, whichever of the pod's volumes it came with.
    async fn mended(&self, target: &Target, published: &mut Published) -> Result<(), Refusal> {
        let made = self.folders.make(target)?;
        if published.folder != Some(made.inode) {
            let pod = &published.volume.pod;
            tracing::error!(
                volume = %target, namespace = pod.namespace, pod = pod.name,
                "target folder was removed by something else and is made again: containers of this pod that mount the \
                 volume hold the old one and must be restarted"
            );
            self.metrics.remade();
        }
        let known = published.folder == Some(made.inode) && published.bound;
        published.folder = Some(made.inode);
        let newest = published.token.number();
        if known && published.told == newest {
            return Ok(());
        }
        let outcome = self.tell(Event::Changed(self.workload(target, published))).await;
        published.bound = outcome.is_ok();
        if outcome.is_ok() {
            published.told = newest;
        }
        outcome
    }

    async fn unpublish_to_the_end(&self, volume_id: &str, path: &str) -> Result<(), Refusal> {
        if volume_id.is_empty() {
            return Err(Refusal::Missing { field: "volume_id" });
        }
        let target = self.folders.target(path)?;
        let published = self.table.take(&target)?;
        if let Some(published) = published {
            if published.volume.id != volume_id {
                tracing::debug!(volume = %target, "volume id is another than at the publish, the path decides");
            }
            if let Err(refusal) = self.tell(Event::Gone(target.to_string().into())).await {
                // Only if we are stopping; our successor finds it in the state.
                self.table.put(&target, published);
                return Err(refusal);
            }
            // The place is held until the folder is gone: by the folder an agent beside us tells whether there is a volume.
            let cleared = self.folders.clear(&target);
            self.table.remove(&target);
            self.save().await;
            cleared?;
        } else {
            // What is left of a predecessor whose state is lost.
            self.folders.clear(&target)?;
        }
        tracing::info!(volume = %target, "volume unpublished");
        Ok(())
    }

    /// Sends an event and waits until its socket is bound or closed.
    async fn tell(&self, event: Event) -> Result<(), Refusal> {
        let notices = self.notices.get().ok_or(Refusal::Stopping)?;
        let (done, answer) = oneshot::channel();
        notices
            .send(Notice { event, done })
            .await
            .map_err(|_| Refusal::Stopping)?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(Refusal::Socket { reason: refused.reason }),
            Err(_) => Err(Refusal::Stopping),
        }
    }

    async fn save(&self) {
        self.count();
        self.saver.save(self.table.revision()).await;
    }

    fn count(&self) {
        let (volumes, _) = self.table.counts();
        self.metrics.volumes.set(i64::try_from(volumes).unwrap_or(i64::MAX));
    }

    fn called(&self, method: &'static str, path: &str, refusal: Option<&Refusal>) {
        self.metrics.called(method, refusal.map_or("ok", Refusal::reason));
        if let Some(refusal) = refusal {
            let path = super::refusal::quoted(path);
            tracing::warn!(method, path, reason = refusal.reason(), error = %refusal, "call of kubelet refused");
        }
    }

    fn workload(&self, target: &Target, published: &Published) -> Workload {
        let volume = &published.volume;
        Workload {
            uid: target.to_string().into(),
            shares: shares(target, volume).into(),
            pod: target.pod_uid.as_str().into(),
            id: volume.spiffe_id.clone(),
            token: Arc::clone(&published.token) as _,
            signer: volume.signer.clone(),
            key_type: volume.key_type,
            returning: published.returning,
            socket: Socket {
                path: self.folders.path(target).join(&volume.socket_name),
                mode: SOCKET_MODE,
                owner: None,
                within: Some(self.folders.pods().to_owned()),
            },
        }
    }
}

/// Volumes of one pod with the same kind of key share one key and one request for each signer, whether a volume names it or an
/// Envoy wishes it.
fn shares(target: &Target, volume: &Volume) -> String {
    let pod = &volume.pod;
    format!(
        "csi/{}/{}/{}/{}",
        pod.namespace,
        pod.name,
        target.pod_uid,
        volume.key_type.as_str()
    )
}

#[cfg(test)]
mod tests;
