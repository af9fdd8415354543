//! A serving certificate that somebody else mounts and replaces.
//!
//! Owns nothing but the joining of the files: they are read as one, and a set that does not belong together (a
//! replacement half done) or is expired leaves the old one in use. Its roots come from a file beside it, such as
//! `ca.crt`; without one, from the chain itself if a root stands in it.

use std::{path::PathBuf, sync::Arc};

use ensign_daemon::watched_file::{Contents, FileSet};
use ensign_pki::{Bundle, Certificate, PrivateKey};
use tokio::sync::watch;

use super::{Face, FaceError, ServingError, Shown};
use crate::{signer::Host, trust::Roots};

pub(super) async fn open(
    certificate: PathBuf,
    key: PathBuf,
    roots: Option<PathBuf>,
    host: &Host,
) -> Result<watch::Receiver<Arc<Shown>>, ServingError> {
    let clock = Arc::clone(&host.clock);
    let own_roots = roots.is_some();
    let join = move |contents: &Contents| {
        let chain = Certificate::parse_all(contents.text(0)?).map_err(FaceError::Damaged)?;
        let ders = chain.iter().map(|certificate| certificate.der().clone()).collect();
        let key = PrivateKey::from_pem(contents.text(1)?).map_err(FaceError::Key)?;
        let face = Face::new(ders, &key, clock.now())?;
        let roots = if own_roots {
            Some(Roots::parse(contents.text(2)?).map_err(FaceError::Roots)?)
        } else {
            let roots: Vec<_> = chain
                .into_iter()
                .filter(|one| one.is_issuer() && one.is_self_signed())
                .collect();
            Bundle::from_certificates(roots).ok().map(Roots::new)
        };
        Ok(Shown {
            face: Ok(Arc::new(face)),
            roots: roots.map(Arc::new),
        })
    };
    let mut set = FileSet::file("serving certificate", certificate)
        .and(key)
        .metrics(&host.files);
    if let Some(roots) = roots {
        set = set.and(roots);
    }
    let (current, watched) = set.required(join).await.map_err(ServingError::Files)?;
    host.tasks.spawn(watched.run(host.stop.child_token()));
    Ok(current)
}
