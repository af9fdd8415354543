//! Unix sockets that others find by their path: as files, and what their clients write into HTTP/2.
//!
//! Both sides of the agent listen on such sockets, `sds` for Envoys and `source` for kubelet, so what is common to them is here and
//! knows neither. [`mod@file`] makes a socket appear at its path and recognises it there, [`kept`] puts it back when it goes,
//! [`listening`] accepts connections on it meanwhile,
//! [`beneath`] finds a folder without following symlinks, [`authority`] lets in clients that name the path as their host.

pub(crate) mod authority;
pub(crate) mod beneath;
pub(crate) mod file;
pub(crate) mod kept;
pub(crate) mod listening;

pub use self::file::{BindError, Owner, SocketSpec};
