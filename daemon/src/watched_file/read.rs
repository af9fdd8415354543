//! Reads a set of files as one consistent whole, bounded in size.
//!
//! Blocking: runs on tokio's blocking threads. Consistent means that two reads in a row gave the same
//! bytes for every file, so a rewrite in progress is not taken for content. Contents may be private
//! keys: they are zeroized on drop and never printed.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// One file of a set.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    pub(super) optional: bool,
}

/// The bytes of all files of a set, in the order in which they were named.
#[derive(PartialEq, Eq)]
pub struct Contents(Vec<(PathBuf, Option<Zeroizing<Vec<u8>>>)>);

/// Why a set of files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It changed between two reads, several times.
    #[error("files kept changing while being read; they are read again later")]
    Changing,
    /// A folder, FIFO, device or socket.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// Which.
        path: String,
    },
    /// The system refused.
    #[error("cannot read {path}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Larger than what such a file ever is.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        path: String,
        /// The limit.
        limit: u64,
    },
}

// === impl Contents ===

impl Contents {
    /// The bytes of file number `index` of the set; empty if it is optional and absent.
    pub fn bytes(&self, index: usize) -> &[u8] {
        self.optional(index).unwrap_or_default()
    }

    /// The bytes of file number `index`, if it is there.
    pub fn optional(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index)?.1.as_ref().map(|bytes| bytes.as_slice())
    }

    /// File number `index` as text.
    pub fn text(&self, index: usize) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(self.bytes(index))
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self
            .0
            .iter()
            .map(|(path, bytes)| (path, bytes.as_ref().map(|b| b.len())));
        formatter.debug_map().entries(sizes).finish()
    }
}

/// Reads all files until two reads agree.
pub(super) fn consistent(wanted: &[Wanted], limit: u64) -> Result<Contents, ReadError> {
    let mut before = all(wanted, limit)?;
    for _ in 0..ATTEMPTS {
        let after = all(wanted, limit)?;
        if after == before {
            return Ok(after);
        }
        before = after;
    }
    Err(ReadError::Changing)
}

impl ReadError {
    /// The file is not there (yet).
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn all(wanted: &[Wanted], limit: u64) -> Result<Contents, ReadError> {
    let one = |file: &Wanted| match read(&file.path, limit) {
        Ok(bytes) => Ok((file.path.clone(), Some(bytes))),
        Err(error) if file.optional && error.is_absent() => Ok((file.path.clone(), None)),
        Err(error) => Err(error),
    };
    wanted.iter().map(one).collect::<Result<_, _>>().map(Contents)
}

#[expect(clippy::disallowed_methods, reason = "runs on a blocking thread")]
fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let shown = || path.display().to_string();
    let failed = |source| ReadError::Io { path: shown(), source };
    // Before opening: a FIFO would hold the thread until somebody writes.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile { path: shown() });
    }
    // Reserved at once: a growing buffer would leave copies of a key behind.
    let capacity = usize::try_from(metadata.len().min(limit)).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let file = fs::File::open(path).map_err(failed)?;
    let read = file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > limit {
        return Err(ReadError::TooLarge { path: shown(), limit });
    }
    Ok(bytes)
}

const ATTEMPTS: usize = 5;
