//! A kubelet of a few lines: it calls the driver as the real one does, over the driver's own sockets.
//!
//! For what the real one cannot be made to show at will, and for more volumes than it has pods; `ring_e2e` has the real one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ensign_proto::csi::v1::identity_client::IdentityClient;
use ensign_proto::csi::v1::node_client::NodeClient;
use ensign_proto::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest};
use ensign_proto::pluginregistration::registration_client::RegistrationClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::csi::{self, dial};
use crate::eventually;

/// Kubelet's folder and its way to the driver.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// Where it is for this process.
    pub folder: PathBuf,
    /// Where it is for the driver.
    told: PathBuf,
    /// Whether tokens come with the secrets instead of the volume's context.
    pub tokens_in_secrets: bool,
}

/// Connections that kubelet has made already; whoever is behind them gets the call.
#[derive(Clone, Debug)]
pub struct Dialled(Channel);

/// A pod with one volume of ours.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Unique on the node.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub account: String,
    /// Name of the volume.
    pub volume: String,
    /// Attributes of the volume.
    pub attributes: HashMap<String, String>,
    /// Its token, as kubelet brings it.
    pub token: String,
}

// === impl Pod ===

impl Pod {
    /// In namespace `foo`, with an account of the same name.
    pub fn new(name: &str) -> Self {
        Self {
            uid: format!("0d5a7e1c-{name}"),
            namespace: "foo".to_owned(),
            name: name.to_owned(),
            account: name.to_owned(),
            volume: "identity".to_owned(),
            attributes: HashMap::new(),
            token: format!("token.of.{name}"),
        }
    }

    /// With one more attribute of its volume.
    #[must_use]
    pub fn with(mut self, attribute: &str, value: &str) -> Self {
        self.attributes.insert(attribute.to_owned(), value.to_owned());
        self
    }

    /// With another token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }
}

// === impl Kubelet ===

impl Kubelet {
    /// Makes the folders that kubelet has before any driver is there.
    pub fn new(folder: PathBuf) -> Self {
        for inner in ["pods", "plugins/csi.ensign.mesh", "plugins_registry"] {
            std::fs::create_dir_all(folder.join(inner)).unwrap();
        }
        Self::known_as(folder.clone(), folder)
    }

    /// A folder that is there already, and that the driver knows by another name.
    pub fn known_as(folder: PathBuf, told: PathBuf) -> Self {
        Self {
            folder,
            told,
            tokens_in_secrets: false,
        }
    }

    /// Where the pod's volume is mounted from.
    pub fn mount(&self, pod: &Pod) -> PathBuf {
        self.folder.join(mount(pod))
    }

    fn target(&self, pod: &Pod) -> PathBuf {
        self.told.join(mount(pod))
    }

    /// Finds the driver's registration socket, asks who it is, takes it up; gives the endpoint that it named.
    pub async fn register(&self) -> String {
        let path = self.folder.join("plugins_registry/csi.ensign.mesh-reg.sock");
        let mut client =
            RegistrationClient::new(eventually("the registration socket", async || dial(&path).await).await);
        let info = client
            .get_info(ensign_proto::pluginregistration::InfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (info.r#type.as_str(), info.name.as_str()),
            ("CSIPlugin", "csi.ensign.mesh")
        );
        assert_eq!(info.supported_versions, ["1.0.0"]);
        let mut node = NodeClient::new(dial(Path::new(&info.endpoint)).await.unwrap());
        let node = node
            .node_get_info(ensign_proto::csi::v1::NodeGetInfoRequest {})
            .await
            .unwrap();
        assert_eq!(node.into_inner().node_id, "node1");
        self.notify(true, "").await;
        info.endpoint
    }

    /// Tells the driver what became of its registration.
    pub async fn notify(&self, plugin_registered: bool, error: &str) {
        let path = self.folder.join("plugins_registry/csi.ensign.mesh-reg.sock");
        let mut client = RegistrationClient::new(dial(&path).await.unwrap());
        let status = ensign_proto::pluginregistration::RegistrationStatus {
            plugin_registered,
            error: error.to_owned(),
        };
        client.notify_registration_status(status).await.unwrap();
    }

    /// What the driver says that it is called.
    pub async fn name(&self) -> String {
        let mut client = IdentityClient::new(self.driver().await);
        let info = client
            .get_plugin_info(ensign_proto::csi::v1::GetPluginInfoRequest {})
            .await;
        client.probe(ensign_proto::csi::v1::ProbeRequest {}).await.unwrap();
        info.unwrap().into_inner().name
    }

    /// What a publish of the pod's volume says.
    pub fn request(&self, pod: &Pod) -> NodePublishVolumeRequest {
        let published = csi::Published {
            namespace: &pod.namespace,
            pod: &pod.name,
            uid: &pod.uid,
            account: &pod.account,
            target: &self.target(pod),
            attributes: pod.attributes.clone(),
        };
        let mut request = published.request(Some(csi::tokens(&pod.token, "2099-01-01T00:00:00Z")));
        if self.tokens_in_secrets {
            let tokens = request.volume_context.remove_entry(csi::TOKENS);
            request.secrets.extend(tokens);
        }
        request
    }

    /// Dials the driver, for a call later on.
    pub async fn dial(&self) -> Dialled {
        Dialled(self.driver().await)
    }

    /// NodePublishVolume, after the volume's folder is made as kubelet does.
    pub async fn publish(&self, pod: &Pod) -> Result<(), Status> {
        self.publish_over(self.dial().await, pod).await
    }

    /// The same over a connection that was made before.
    pub async fn publish_over(&self, Dialled(channel): Dialled, pod: &Pod) -> Result<(), Status> {
        std::fs::create_dir_all(self.mount(pod).parent().unwrap()).unwrap();
        let mut client = NodeClient::new(channel);
        let answer = client.node_publish_volume(self.request(pod)).await;
        answer.map(|_| ()).map_err(as_kubelet_sees_it)
    }

    /// NodeUnpublishVolume, and removes what it made itself.
    pub async fn unpublish(&self, pod: &Pod) -> Result<(), Status> {
        self.unpublish_over(self.dial().await, pod).await
    }

    /// The same over a connection that was made before.
    pub async fn unpublish_over(&self, Dialled(channel): Dialled, pod: &Pod) -> Result<(), Status> {
        let mut client = NodeClient::new(channel);
        let request = NodeUnpublishVolumeRequest {
            volume_id: format!("csi-{}", pod.uid),
            target_path: self.target(pod).to_str().unwrap().to_owned(),
        };
        let answer = client.node_unpublish_volume(request).await;
        answer.map_err(as_kubelet_sees_it)?;
        // What it made for the volume itself.
        let made = std::fs::remove_dir(self.mount(pod).parent().unwrap());
        assert!(made.is_ok() || made.unwrap_err().kind() == std::io::ErrorKind::NotFound);
        Ok(())
    }

    async fn driver(&self) -> Channel {
        let path = self.folder.join("plugins/csi.ensign.mesh/csi.sock");
        eventually("the driver's socket", async || dial(&path).await).await
    }
}

/// A call that ends with its connection has no answer. Kubelet's client (gRPC for Go) calls that UNAVAILABLE; ours has several
/// codes for it, by how far the connection's end had come.
fn as_kubelet_sees_it(status: Status) -> Status {
    let source = std::error::Error::source(&status);
    if source.is_some_and(<dyn std::error::Error>::is::<tonic::transport::Error>) {
        return Status::unavailable(format!("{status:?}"));
    }
    status
}

/// Below kubelet's folder.
fn mount(pod: &Pod) -> String {
    format!("pods/{}/volumes/kubernetes.io~csi/{}/mount", pod.uid, pod.volume)
}
