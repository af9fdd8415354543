//! Where the serving certificate comes from.

use std::path::PathBuf;

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::{list, path};
use crate::serving::ServingSource;

#[derive(Debug, Clone, Args)]
pub(super) struct ServingArgs {
    /// Serving certificate chain, from elsewhere (PEM, watched); with --serving-key-file
    #[arg(long, env = "ENSIGN_RA_SERVING_CERT_FILE", value_name = "PATH")]
    serving_cert_file: Option<String>,
    /// Key of the serving certificate (PEM, watched)
    #[arg(long, env = "ENSIGN_RA_SERVING_KEY_FILE", value_name = "PATH")]
    serving_key_file: Option<String>,
    /// Instead of a certificate from elsewhere: folder of a CA for the serving certificate alone, made if empty
    #[arg(long, env = "ENSIGN_RA_SERVING_CA_DIR", value_name = "DIR")]
    serving_ca_dir: Option<String>,
    /// Names in the serving certificate that this CA issues
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_DNS_NAMES",
        default_value = "istiod.istio-system.svc,ensign-ra.istio-system.svc,localhost",
        value_name = "LIST"
    )]
    serving_dns_names: String,
    /// Where the root of that CA is written for clients (their CA_ROOT_CA)
    #[arg(long, env = "ENSIGN_RA_SERVING_ROOT_FILE", value_name = "PATH")]
    serving_root_file: Option<String>,
}

impl ServingArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<ServingSource> {
        const CERT: &str = "serving_cert_file";
        const KEY: &str = "serving_key_file";
        let from_ca = &self.serving_ca_dir;
        match (&self.serving_cert_file, &self.serving_key_file, from_ca) {
            (Some(cert), Some(key), None) => {
                let (cert, key) = (path(c, CERT, Some(cert)), path(c, KEY, Some(key)));
                if let Some(root) = &self.serving_root_file {
                    let why = "a certificate from files brings its own root; leave this out";
                    c.refuse("serving_root_file", root, "nothing beside --serving-cert-file", why);
                }
                Some(ServingSource::Files {
                    certificate: cert?,
                    key: key?,
                })
            }
            (None, None, Some(dir)) => {
                let dir = path(c, "serving_ca_dir", Some(dir));
                let names = list(c, "serving_dns_names", &self.serving_dns_names);
                let root_file = self.serving_root_file.as_ref().map(PathBuf::from);
                Some(ServingSource::OwnCa {
                    dir: dir?,
                    names: names?,
                    root_file,
                })
            }
            (None, None, None) => {
                c.missing(
                    "serving_ca_dir",
                    "a folder, or --serving-cert-file with --serving-key-file",
                );
                None
            }
            (Some(seen), None, None) => {
                c.refuse(
                    CERT,
                    seen,
                    "--serving-key-file beside it",
                    "a certificate needs its key",
                );
                None
            }
            (None, Some(seen), None) => {
                c.refuse(
                    KEY,
                    seen,
                    "--serving-cert-file beside it",
                    "a key needs its certificate",
                );
                None
            }
            (_, _, Some(dir)) => {
                let why = "the serving certificate comes from files or from a CA of its own, not from both";
                c.refuse("serving_ca_dir", dir, "either this or --serving-cert-file", why);
                None
            }
        }
    }
}
