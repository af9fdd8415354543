//! A serving certificate that somebody else mounts and replaces.
//!
//! Owns nothing but the joining of the two files: they are read as one, and a pair that does not belong together (a
//! replacement half done) or is expired leaves the old pair in use.

use std::{path::PathBuf, sync::Arc};

use ensign_daemon::watched_file::{Contents, FileSet};
use ensign_pki::{Certificate, PrivateKey};
use tokio::sync::watch;

use super::{Face, FaceError, ServingError};
use crate::signer::Host;

pub(super) async fn open(
    certificate: PathBuf,
    key: PathBuf,
    host: &Host,
) -> Result<watch::Receiver<Arc<Face>>, ServingError> {
    let clock = Arc::clone(&host.clock);
    let join = move |contents: &Contents| {
        let chain = Certificate::parse_all(contents.text(0)?).map_err(FaceError::Damaged)?;
        let chain = chain.iter().map(|certificate| certificate.der().clone()).collect();
        let key = PrivateKey::from_pem(contents.text(1)?).map_err(FaceError::Key)?;
        Ok(Face::new(chain, &key, clock.now())?)
    };
    let set = FileSet::file("serving certificate", certificate)
        .and(key)
        .metrics(&host.files);
    let (current, watched) = set.required(join).await.map_err(ServingError::Files)?;
    host.tasks.spawn(watched.run(host.stop.child_token()));
    Ok(current)
}
