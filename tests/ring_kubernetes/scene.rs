//! A signer of the CSR API that is a test's own and does what its script says, and one replica's signers that use it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ensign_ra::signer::Running;
use ensign_testbed::cluster::instant_signer::{InstantSigner, Serves};
use ensign_testbed::cluster::{Access, unique};
use ensign_testkit::TestCa;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::replica::{Installation, Replica, csr_signer, csr_signer_with};

type Result = anyhow::Result<()>;

/// Both, and who they are.
pub(crate) struct Scene {
    pub(crate) name: String,
    pub(crate) ca: TestCa,
    pub(crate) signer: InstantSigner,
    pub(crate) installation: Installation,
    pub(crate) replica: Replica,
}

// === impl Scene ===

impl Scene {
    /// A new signer, and an RA that may use it.
    pub(crate) async fn new(access: &Access) -> anyhow::Result<Self> {
        let name = format!("example.com/{}", unique("foo"));
        let ca = TestCa::with_intermediates("foo", 1);
        let signer = InstantSigner::start(access, Serves::SignerName(name.clone()), &ca).await?;
        let installation = Installation::new(access, &[&name], None).await?;
        let replica = Replica::start(access, &installation).await?;
        Ok(Self {
            name,
            ca,
            signer,
            installation,
            replica,
        })
    }

    /// The signer as the RA's policy has it.
    pub(crate) async fn open(&self) -> anyhow::Result<Arc<Running>> {
        let spec = csr_signer("foo", &self.name, &self.ca.root_pem());
        self.replica.open(&spec).await
    }

    /// With little patience of the signer's.
    pub(crate) async fn open_impatient(&self, approve: bool) -> anyhow::Result<Arc<Running>> {
        let spec = csr_signer_with("foo", &self.name, &self.ca.root_pem(), |csr| {
            csr.approve = approve;
            csr.request.deadline = Duration::from_secs(2);
        });
        self.replica.open(&spec).await
    }

    /// The one object that is there.
    pub(crate) async fn object(&self, access: &Access) -> anyhow::Result<CertificateSigningRequest> {
        let mut there = self.installation.csrs(access).await?;
        ensure!(there.len() == 1, "{} objects, expected one", there.len());
        there.pop().context("none")
    }

    /// I8, once the removals under way are over.
    pub(crate) async fn nothing_is_left(&self, access: &Access) -> Result {
        self.replica.settled().await;
        let left = self.installation.csrs(access).await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}
