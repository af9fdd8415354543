//! A socket on which connections are accepted, for as long as its owner wishes.
//!
//! Owns the loop of all that listen: stop first, then a look at the file now and then, then connections. A socket whose file goes is bound
//! again; connections that exist, and those that come later, do not notice. What cannot be accepted waits in the kernel's
//! queue and is tried again, said once for a row of failures. What becomes of a connection is the owner's.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::file::{BindError, SocketSpec};
use super::kept::{Found, KeptSocket};

/// A bound socket. Nothing is accepted before [`Listening::accept`].
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    kept: KeptSocket,
    callers: Callers,
    look: Interval,
    /// Set while connections cannot be accepted.
    failing: bool,
}

/// Whose connections these are.
#[derive(Clone, Debug)]
pub(crate) enum Callers {
    /// Kubelet's.
    Kubelet,
    /// Envoys' of this workload, one of many.
    EnvoysOf(String),
}

// === impl Listening ===

impl Listening {
    /// Binds the socket, over whatever socket is there, and looks at its file so often.
    pub(crate) fn bind(spec: SocketSpec, callers: Callers, look: Duration) -> Result<Self, BindError> {
        let (listener, kept) = KeptSocket::bind(spec)?;
        let listener = registered(listener, kept.path())?;
        let mut look = interval(look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            listener,
            kept,
            callers,
            look,
            failing: false,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.kept.path()
    }

    /// Whether a successor's living socket is at the path now.
    pub(crate) fn has_successor(&self) -> bool {
        self.kept.has_successor()
    }

    /// The next connection; none once `stop` is cancelled. Dropped while it waits, nothing is lost.
    pub(crate) async fn accept(&mut self, stop: &CancellationToken) -> Option<UnixStream> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                _ = self.look.tick() => self.look(),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        self.failing = false;
                        return Some(stream);
                    }
                    Err(error) => {
                        self.complain(&error);
                        stop.run_until_cancelled(sleep(PAUSE)).await?;
                    }
                },
            }
        }
    }

    /// Nobody listens any more; the file stays for now.
    pub(crate) fn close(self) -> KeptSocket {
        self.kept
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let (callers, path) = (&self.callers, self.path().display());
            tracing::error!(%callers, %path, %error, "connections cannot be accepted, trying on");
        }
    }

    fn look(&mut self) {
        let found = self.kept.look();
        let (callers, path) = (&self.callers, self.kept.path().display());
        let complaint = match found {
            None => return,
            Some(Found::Succeeded) => {
                match callers {
                    Callers::Kubelet => tracing::info!(%path, "kubelet calls our successor from now on"),
                    // As many lines as pods say no more.
                    Callers::EnvoysOf(_) => {
                        tracing::debug!(%callers, %path, "a successor serves newcomers, our streams stay until we stop");
                    }
                }
                return;
            }
            Some(Found::Complaint(complaint)) => complaint,
            Some(Found::Gone(listener)) => match registered(listener, self.kept.path()) {
                Ok(listener) => {
                    // Whoever waits in the old one's queue is told to come again; connections that exist are not touched.
                    self.listener = listener;
                    tracing::warn!(%callers, %path, "socket file was gone, it is back");
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        tracing::error!(%callers, %path, error = complaint, "socket is not at its path");
    }
}

impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubelet => f.write_str("kubelet"),
            Self::EnvoysOf(workload) => f.write_str(workload),
        }
    }
}

/// For tokio, which must be told.
fn registered(listener: std::os::unix::net::UnixListener, path: &Path) -> Result<UnixListener, BindError> {
    UnixListener::from_std(listener).map_err(|source: io::Error| BindError::System {
        step: "registering",
        path: path.into(),
        source,
    })
}

/// After a failed accept: out of descriptors is nothing that a second try at once mends.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
    use tokio::time::timeout;
    use tracing::{Level, Metadata, span};

    use super::*;

    /// Counts the errors of the log.
    #[derive(Clone, Default)]
    struct Errors(Arc<AtomicUsize>);

    impl Errors {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl tracing::Subscriber for Errors {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            if *event.metadata().level() == Level::ERROR {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn listening(place: &Path) -> Listening {
        let spec = SocketSpec {
            path: place.join("socket"),
            mode: 0o600,
            owner: None,
            within: None,
            left: false,
        };
        Listening::bind(spec, Callers::Kubelet, Duration::from_secs(1)).unwrap()
    }

    fn deaf() -> UnixListener {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        UnixListener::from_std(socket.into()).unwrap()
    }

    #[tokio::test]
    async fn connections_that_cannot_be_accepted_are_an_error_once_and_not_for_each_try() {
        let place = tempfile::tempdir().unwrap();
        let (mut listening, stop) = (listening(place.path()), CancellationToken::new());
        let errors = Errors::default();
        let _log = tracing::subscriber::set_default(errors.clone());
        for row in 1..=2 {
            // A socket that does not listen fails at each accept, and at once.
            listening.listener = deaf();
            assert!(timeout(PAUSE * 5, listening.accept(&stop)).await.is_err());
            assert_eq!(errors.count(), row);
            // Its file goes, so that it is bound again.
            std::fs::remove_file(listening.path()).unwrap();
            let path = listening.path().to_owned();
            let knocking = async {
                loop {
                    if let Ok(stream) = UnixStream::connect(&path).await {
                        return stream;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            };
            let (accepted, _client) = tokio::join!(listening.accept(&stop), knocking);
            assert!(accepted.is_some());
            assert_eq!(errors.count(), row);
        }
    }

    #[tokio::test]
    async fn who_is_told_to_stop_accepts_nobody_who_waits() {
        let place = tempfile::tempdir().unwrap();
        let (mut listening, stop) = (listening(place.path()), CancellationToken::new());
        let _client = UnixStream::connect(listening.path()).await.unwrap();
        stop.cancel();
        assert!(listening.accept(&stop).await.is_none());
    }
}
