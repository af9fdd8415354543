//! Kubelet's words to a CSI node driver: the publish of a pod's inline volume, with the pod's token, and the way to a driver's
//! socket.
//!
//! As kubelet 1.34 says it (`pkg/volume/csi/csi_mounter.go`). When and how often it does is the caller's business.

use std::collections::HashMap;
use std::path::Path;

use ensign_proto::csi::v1::volume_capability::{AccessType, MountVolume};
use ensign_proto::csi::v1::{NodePublishVolumeRequest, VolumeCapability};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

/// Under which kubelet hands tokens over.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A pod with a volume that is to be published.
#[derive(Clone, Debug)]
pub struct Published<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub pod: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Its service account.
    pub account: &'a str,
    /// Where the volume is to be.
    pub target: &'a Path,
    /// The attributes of the volume.
    pub attributes: HashMap<String, String>,
}

impl Published<'_> {
    /// The call; without tokens unless they are given, as [`tokens`] writes them.
    pub fn request(&self, tokens: Option<String>) -> NodePublishVolumeRequest {
        let kubelets = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", self.pod),
            ("csi.storage.k8s.io/pod.namespace", self.namespace),
            ("csi.storage.k8s.io/pod.uid", self.uid),
            ("csi.storage.k8s.io/serviceAccount.name", self.account),
        ];
        let mut volume_context = self.attributes.clone();
        volume_context.extend(kubelets.map(|(key, value)| (key.to_owned(), value.to_owned())));
        volume_context.extend(tokens.map(|tokens| (TOKENS.to_owned(), tokens)));
        NodePublishVolumeRequest {
            volume_id: format!("csi-{}", self.uid),
            target_path: self.target.to_str().unwrap().to_owned(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            readonly: true,
            secrets: HashMap::new(),
            volume_context,
        }
    }
}

/// A token of Istio's audience that ends at this time (RFC 3339), as kubelet writes it.
pub fn tokens(token: &str, ends: &str) -> String {
    json!({ "istio-ca": { "token": token, "expirationTimestamp": ends } }).to_string()
}

/// A connection to a driver.
pub async fn dial(socket: &Path) -> Result<Channel, Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await
}
