//! A socket that is put back when its file goes.
//!
//! Owns what is known of the file: its inode, the mode of its folder, what was complained about already. Whoever listens
//! calls [`KeptSocket::look`] now and then. Dropped, it removes the file if it is still ours, unless the spec leaves that to others.
//! Where it is left to others, a living socket in its place is a successor's, which is how things should be: it is left alone
//! for as long as it lives, and should it die first, the path is taken back.

use std::os::unix::net::UnixListener;
use std::path::Path;

use super::file::{self, BindError, Inode, Sighting, SocketSpec};

/// A socket of somebody else at our path is asked again whether it lives after so many looks.
const LOOKS_PER_PROBE: u32 = 5;

/// Our file, and how to put it back.
#[derive(Debug)]
pub(crate) struct KeptSocket {
    spec: SocketSpec,
    inode: Inode,
    folder_mode: Option<u32>,
    /// Said once, not at each look.
    complaint: Option<String>,
    looks: u32,
    /// Set while a successor's socket is at the path.
    succeeded: bool,
}

/// What a look found to be wrong.
#[derive(Debug)]
pub(crate) enum Found {
    /// The file had to be put back; listen here from now on.
    Gone(UnixListener),
    /// A successor has put its own in the place; said for the first time.
    Succeeded,
    /// It could not be; said for the first time.
    Complaint(String),
}

// === impl KeptSocket ===

impl KeptSocket {
    /// Binds the socket. It is non-blocking.
    pub(crate) fn bind(spec: SocketSpec) -> Result<(UnixListener, Self), BindError> {
        let (listener, inode) = file::bind(&spec)?;
        let kept = Self {
            inode,
            folder_mode: file::folder_mode(&spec.path).filter(|_| spec.within.is_none()),
            complaint: None,
            looks: 0,
            succeeded: false,
            spec,
        };
        Ok((listener, kept))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.spec.path
    }

    /// Whether a successor's living socket is at the path now.
    pub(crate) fn has_successor(&self) -> bool {
        self.spec.left
            && file::sight(&self.spec.path, self.inode) == Sighting::OtherSocket
            && !file::is_stale(&self.spec)
    }

    /// Removes the file, although the spec leaves it to others; not if a successor's is there by now. By its own name and in one
    /// step, because kubelet goes by that name; should a successor come in between, it finds its file gone and puts it back.
    pub(crate) fn take_away(self) {
        file::unlink(&self.spec.path, self.inode);
    }

    /// Looks at the path, and does what can be done. `None`: all is well, or nothing is new.
    pub(crate) fn look(&mut self) -> Option<Found> {
        let before = self.succeeded;
        let mended = self.mend();
        if self.succeeded {
            return (!before).then_some(Found::Succeeded);
        }
        match mended? {
            Ok(listener) => Some(Found::Gone(listener)),
            Err(complaint) if self.complaint.as_ref() == Some(&complaint) => None,
            Err(complaint) => {
                self.complaint = Some(complaint.clone());
                Some(Found::Complaint(complaint))
            }
        }
    }

    /// A new listener if the file had to be put back; a complaint if it could not be.
    fn mend(&mut self) -> Option<Result<UnixListener, String>> {
        let path = &self.spec.path;
        let sighting = file::sight(path, self.inode);
        if sighting != Sighting::OtherSocket {
            self.succeeded = false;
        }
        match sighting {
            Sighting::Ours => {
                self.complaint = None;
                self.looks = 0;
                return None;
            }
            Sighting::Foreign => return Some(Err("a file of somebody else is there, it is left as it is".into())),
            Sighting::OtherSocket => {
                self.looks += 1;
                let probe = self.looks % LOOKS_PER_PROBE == 1;
                if !probe || !file::is_stale(&self.spec) {
                    self.succeeded = self.spec.left;
                    return Some(Err("a socket of somebody else is there, it is left as it is".into()));
                }
            }
            Sighting::Nothing => {
                if let Some(mode) = self.folder_mode
                    && let Err(error) = file::remake_folder(path, mode)
                {
                    return Some(Err(format!("its folder is gone and cannot be made again: {error}")));
                }
            }
        }
        Some(self.bind_again().map_err(|error| error.to_string()))
    }

    fn bind_again(&mut self) -> Result<UnixListener, BindError> {
        let (listener, inode) = file::bind(&self.spec)?;
        self.inode = inode;
        self.complaint = None;
        self.looks = 0;
        self.succeeded = false;
        Ok(listener)
    }
}

impl Drop for KeptSocket {
    fn drop(&mut self) {
        if !self.spec.left {
            file::remove(&self.spec.path, self.inode);
        }
    }
}
