//! A client, its authority, and a request for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ensign_agent::csr_client::{
    CaRoots, FileToken, IstioCa, IstioCaConfig, RequestId, Sign as _, SignError, SignRequest,
};
use ensign_pki::{KeyType, PrivateKey, SpiffeId, csr};
use ensign_testkit::{FakeRa, TestCa};
use tokio::sync::watch;

pub struct Client {
    pub ra: FakeRa,
    pub ca: IstioCa,
    pub roots: watch::Sender<Arc<CaRoots>>,
    pub token: PathBuf,
    _folder: tempfile::TempDir,
}

pub async fn client(deadline: Duration) -> Client {
    let ra = FakeRa::start(TestCa::new("workloads")).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    tokio::fs::write(&token, "first-token\n").await.unwrap();
    let (roots, receiver) = watch::channel(roots_in(&ra.serving_root_pem()));
    let config = IstioCaConfig {
        address: format!("localhost:{}", ra.address().port()).parse().unwrap(),
        server_name: None,
        cluster_id: "Kubernetes".to_owned(),
        headers: vec![("x-extra".to_owned(), "seen".to_owned())],
        deadline,
    };
    let ca = IstioCa::new(config, receiver).unwrap();
    Client {
        ra,
        ca,
        roots,
        token,
        _folder: folder,
    }
}

pub fn roots_in(pem: &str) -> Arc<CaRoots> {
    Arc::new(CaRoots::from_pem(pem.as_bytes()).unwrap())
}

impl Client {
    pub async fn ask(&self, signer: Option<&str>) -> Result<Vec<String>, SignError> {
        let id: SpiffeId = "spiffe://cluster.local/ns/foo/sa/web".parse().unwrap();
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let request = SignRequest {
            csr_pem: csr::build(&key, &id).unwrap().to_pem(),
            id,
            signer: signer.map(|name| name.parse().unwrap()),
            ttl: Duration::from_hours(1),
            token: Arc::new(FileToken::new(&self.token)),
            request_id: RequestId::from_bits(7),
        };
        self.ca.sign(request).await.map(|answer| answer.elements)
    }
}
