//! Flags of istio-csr that are refused, each with what to do instead: those that it has from kubectl's library for the way to
//! an API server (`k8s.io/cli-runtime`, `genericclioptions.ConfigFlags`).
//!
//! They are no flags of ours, so clap refuses them; here its "unexpected argument" becomes an answer.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Why a flag of istio-csr is none here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{flag} of istio-csr is no flag here: {instead}")]
pub struct RefusedFlag {
    flag: &'static str,
    instead: &'static str,
}

impl RefusedFlag {
    /// The one that a command line failed for, if it is such a flag.
    pub(crate) fn of(error: &clap::Error) -> Option<Self> {
        if error.kind() != ErrorKind::UnknownArgument {
            return None;
        }
        let Some(ContextValue::String(seen)) = error.get(ContextKind::InvalidArg) else {
            return None;
        };
        let seen = seen.split('=').next().unwrap_or_default();
        REFUSED.iter().find_map(|&(flags, instead)| {
            let flag = flags.iter().copied().find(|flag| *flag == seen)?;
            Some(Self { flag, instead })
        })
    }
}

/// Each with its short form, and the sentence of docs/migrate-from-istio-csr.md.
const REFUSED: [(&[&str], &str); 9] = [
    (&["--cluster", "--user"], "name a context of the kubeconfig (--context)"),
    (
        &["--namespace", "-n"],
        "the namespace of the RA itself is --own-namespace, that of the requests --certificate-namespace",
    ),
    (
        &[
            "--server",
            "-s",
            "--certificate-authority",
            "--client-certificate",
            "--client-key",
            "--tls-server-name",
        ],
        "write it into a kubeconfig (--kubeconfig)",
    ),
    (
        &["--token"],
        "a secret does not belong on a command line; write it into a kubeconfig (--kubeconfig)",
    ),
    (
        &["--as", "--as-group", "--as-uid"],
        "the RA comes as its own account, by whose name it knows its own objects",
    ),
    (
        &["--insecure-skip-tls-verify"],
        "whoever poses as the API server could say that any token is good",
    ),
    (
        &["--request-timeout"],
        "each request to the API server has a deadline of its own",
    ),
    (&["--cache-dir"], "nothing is cached on disk"),
    (&["--disable-compression"], "nothing is compressed"),
];
