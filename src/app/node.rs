//! Joins a source's workloads to rotation and to their sockets.
//!
//! Owns which workloads are served. Promises the order that keeps others unharmed: a socket is bound before anything is
//! asked for its workload; on removal entries and keys go at once, then the socket; an acknowledgement means that it is
//! done. A socket that cannot be bound at run time is logged and hurts only its workload.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rotation::{self, Handle, WorkloadUid};
use crate::sds;
use crate::source::{Event, Notice, Refused, Socket, Workload};

/// The workloads of this node.
#[derive(Debug)]
pub(super) struct Node {
    rotation: Handle,
    sds: sds::Server,
    served: HashMap<Arc<str>, Served>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One bound socket.
#[derive(Debug)]
struct Served {
    /// Whose it is. Others may have the same name in rotation.
    workload: Workload,
    close: CancellationToken,
    closed: JoinHandle<()>,
}

// === impl Node ===

impl Node {
    /// No workloads. Sockets run on `tasks` and close with `stop`.
    pub(super) fn new(rotation: Handle, sds: sds::Server, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            rotation,
            sds,
            served: HashMap::new(),
            tasks,
            stop,
        }
    }

    /// Takes notices until `stop`.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Notice>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        while let Some(Some(notice)) = stop.run_until_cancelled(inbox.recv()).await {
            self.take(notice);
        }
        stop.cancelled().await;
        Ok(())
    }

    fn take(&mut self, notice: Notice) {
        let Notice { event, done } = notice;
        let outcome = match event {
            Event::Appeared(workload) | Event::Changed(workload) => self.appeared_or_changed(workload),
            Event::Gone(uid) => {
                if let Some(closing) = self.gone(&uid) {
                    // Not waited for here: one slow client must not delay the other workloads.
                    self.tasks.spawn(async move {
                        let _ = closing.await;
                        let _ = done.send(Ok(()));
                    });
                    return;
                }
                Ok(())
            }
        };
        // A source that has stopped listening is a source that is stopping.
        let _ = done.send(outcome);
    }

    fn appeared_or_changed(&mut self, workload: Workload) -> Result<(), Refused> {
        let same_socket = |served: &&mut Served| {
            served.workload.socket == workload.socket && served.workload.signer == workload.signer
        };
        if let Some(served) = self.served.get_mut(&workload.uid).filter(same_socket) {
            served.workload = workload.clone();
            self.rotation.put(self.entry(&workload));
            return Ok(());
        }
        let (name, path) = (Arc::clone(&workload.shares), workload.socket.path.clone());
        self.serve(workload).map_err(|error| {
            let reason = ensign_daemon::logging::chain(&error);
            tracing::error!(workload = %name, path = %path.display(), error = reason, "socket not bound, the workload waits");
            Refused { reason }
        })
    }

    /// Binds, makes the workload known, then serves: nobody can ask before there is something to ask for. If the workload has a socket
    /// and the new one cannot be bound, the old one serves on; at the same path the new file replaces the old one.
    pub(super) fn serve(&mut self, workload: Workload) -> Result<(), sds::BindError> {
        let (handle, close) = self.bind(&workload)?;
        let old = self.served.remove(&workload.uid);
        if old.is_none() {
            tracing::info!(
                workload = %workload.shares, id = %workload.id, signer = workload.signer.as_ref().map(tracing::field::display),
                path = %workload.socket.path.display(), "workload added"
            );
        }
        self.rotation.put(self.entry(&workload));
        let closed = self.tasks.spawn(handle.run());
        let served = Served {
            workload,
            close,
            closed,
        };
        self.served.insert(Arc::clone(&served.workload.uid), served);
        if let Some(old) = old {
            old.close.cancel();
        }
        Ok(())
    }

    /// Entries and keys go now, unless another socket shares them; the handle ends when the socket is closed.
    fn gone(&mut self, uid: &Arc<str>) -> Option<JoinHandle<()>> {
        let served = self.served.remove(uid)?;
        let shares = &served.workload.shares;
        match self.served.values().find(|other| other.workload.shares == *shares) {
            // Its signer may have been this one's alone.
            Some(other) => self.rotation.put(self.entry(&other.workload)),
            None => self.rotation.remove(&WorkloadUid::new(shares)),
        }
        served.close.cancel();
        tracing::info!(workload = %shares, path = %served.workload.socket.path.display(), "workload removed");
        Some(served.closed)
    }

    /// What rotation is to know of a workload, and of all that share its name.
    fn entry(&self, workload: &Workload) -> rotation::Workload {
        let sharing = self.served.values().map(|served| &served.workload);
        let sharing = sharing.filter(|other| other.shares == workload.shares && other.uid != workload.uid);
        rotation::Workload {
            uid: WorkloadUid::new(&workload.shares),
            id: workload.id.clone(),
            token: Arc::clone(&workload.token),
            signers: sharing.chain([workload]).map(|one| one.signer.clone()).collect(),
            key_type: workload.key_type,
            returning: workload.returning,
        }
    }

    fn bind(&self, workload: &Workload) -> Result<(sds::SocketHandle, CancellationToken), sds::BindError> {
        let Socket {
            path,
            mode,
            owner,
            within,
        } = workload.socket.clone();
        let close = self.stop.child_token();
        let spec = sds::SocketSpec {
            path,
            mode,
            owner: owner.map(|(uid, gid)| sds::Owner { uid, gid }),
            left: within.is_some(),
            within,
        };
        let handle = self.sds.serve(
            WorkloadUid::new(&workload.shares),
            &workload.pod,
            workload.signer.clone(),
            spec,
            close.clone(),
        )?;
        Ok((handle, close))
    }
}
