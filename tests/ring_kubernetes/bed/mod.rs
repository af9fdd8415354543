//! The test bed itself: what the other tests of this ring rely on.

mod admission_hook;
mod breaking;
mod instant_signer;
mod listeners;
mod requests;
mod session;
mod shared;
mod tokens;

use std::{fs, path::Path};

use ensign_pki::{Bundle, Chain, Clock as _, KeyType, PrivateKey, SpiffeId, SystemClock, csr, verify_issued};
use ensign_testkit::TestCa;

/// A workload that wants a certificate.
struct Workload {
    id: SpiffeId,
    key: PrivateKey,
    csr_pem: String,
}

impl Workload {
    fn new() -> Self {
        let id: SpiffeId = "spiffe://cluster.local/ns/foo/sa/web".parse().expect("an id");
        let key = PrivateKey::generate(KeyType::P256).expect("a key");
        let csr_pem = csr::build(&key, &id).expect("a request").to_pem();
        Self { id, key, csr_pem }
    }

    /// The reason for which its certificate is no good below this authority's root, or `accepted`.
    fn judge(&self, chain_pem: &str, ca: &TestCa) -> &'static str {
        let anchors = Bundle::parse_pem(&ca.root_pem()).expect("a root");
        match Chain::from_reply_elements(&[chain_pem.to_owned(), ca.root_pem()]) {
            Err(error) => error.reason(),
            Ok(chain) => match verify_issued(&chain, &anchors, &self.id, &self.key.spki_der(), SystemClock.now()) {
                Err(error) => error.reason(),
                Ok(_) => "accepted",
            },
        }
    }
}

/// The processes that work in a cluster's folder.
fn processes_of(folder: &Path) -> Vec<String> {
    pids_of(folder)
        .into_iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| line.replace('\0', " "))
        .collect()
}

/// Their ids.
fn pids_of(folder: &Path) -> Vec<u32> {
    let folder = folder.display().to_string();
    let entries = fs::read_dir("/proc").expect("/proc");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&folder)))
        .collect()
}
