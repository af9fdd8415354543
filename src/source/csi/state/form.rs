//! The form of the state's file: JSON, with a version and the node that it was written on.
//!
//! Owns what is written of a volume, and what of it is believed when it is read: each part is checked as if a pod had written it, since the
//! file may be anything. It holds no key and no token, for there is no place for one. Where the file is, and who may write it, is the
//! [state](super)'s.

use std::io;

use ensign_pki::KeyError;
use serde::{Deserialize, Serialize};

use super::super::Config;
use super::super::request::{Pod, Volume};
use super::super::target::Target;
use super::Volumes;
use crate::csr_client::SignerName;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    version: u32,
    node: String,
    volumes: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    volume_id: String,
    pod_uid: String,
    volume: String,
    namespace: String,
    pod: String,
    service_account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
    key_type: String,
    socket_name: String,
}

/// What the file holds for these volumes.
pub(super) fn write(volumes: &[(Target, Volume)], node: &str) -> io::Result<Vec<u8>> {
    let file = File {
        version: VERSION,
        node: node.to_owned(),
        volumes: volumes.iter().map(entry).collect(),
    };
    serde_json::to_vec(&file).map_err(io::Error::other)
}

/// The volumes that a file holds, or why it means nothing to us. A volume that means nothing is left out and said.
pub(super) fn read(bytes: &[u8], config: &Config) -> Result<Volumes, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| format!("it is not of our form: {error}"))?;
    if file.version != VERSION {
        return Err(format!("its version is {}, expected {VERSION}", file.version));
    }
    if file.node != config.node_name {
        return Err(format!("it is of node {:?}, this is {:?}", file.node, config.node_name));
    }
    let mut volumes = Vec::with_capacity(file.volumes.len());
    for entry in file.volumes {
        match volume(entry, config) {
            Ok(volume) => volumes.push(volume),
            Err(reason) => tracing::error!(
                reason,
                "a volume of the state means nothing to us; kubelet publishes it again within some two minutes"
            ),
        }
    }
    Ok(volumes)
}

/// What was allowed when it was published stays, whatever is allowed now: its pod cannot be asked again.
fn volume(entry: Entry, config: &Config) -> Result<(Target, Volume), String> {
    let target = Target::new(&entry.pod_uid, &entry.volume).ok_or("a volume's place is no name")?;
    let key_type = entry.key_type.parse().map_err(|error: KeyError| error.to_string())?;
    let pod = Pod {
        namespace: entry.namespace,
        name: entry.pod,
        service_account: entry.service_account,
    };
    let (signer, domain) = (entry.signer.as_deref(), &config.trust_domain);
    let volume = Volume::new(entry.volume_id, pod, signer, key_type, &entry.socket_name, domain);
    Ok((target, volume.map_err(|refusal| refusal.to_string())?))
}

fn entry((target, volume): &(Target, Volume)) -> Entry {
    Entry {
        volume_id: volume.id.clone(),
        pod_uid: target.pod_uid.clone(),
        volume: target.volume.clone(),
        namespace: volume.pod.namespace.clone(),
        pod: volume.pod.name.clone(),
        service_account: volume.pod.service_account.clone(),
        signer: volume.signer.as_ref().map(SignerName::to_string),
        key_type: volume.key_type.to_string(),
        socket_name: volume.socket_name.clone(),
    }
}

const VERSION: u32 = 1;
