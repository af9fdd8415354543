//! The whole RA as a process on a real cluster, with the rights of `deploy/optional/rbac.yaml` and nothing more.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use ensign_agent::csr_client::{CaRoots, FileToken, IstioCa, IstioCaConfig, RequestId, Sign as _, SignRequest};
use ensign_pki::{KeyType, PrivateKey, SpiffeId, crypto, csr};
use ensign_testbed::{
    cluster::{Access, TokenOf},
    folder::Folder,
    http,
    process::{Program, Spec, own_binary},
    wait::{PATIENCE, until},
};
use hyper::Method;
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;

type Result<T = ()> = anyhow::Result<T>;

/// Where deploy/ puts the RA.
pub(crate) const OWN: &str = "ensign-system";
/// A name of its serving certificate.
pub(crate) const SERVER: &str = "ensign-ra.ensign-system.svc";

/// One replica.
pub(crate) struct Ra {
    pub(crate) program: Program,
    folder: Folder,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Ra {
    /// Starts one where deploy/ puts it, and waits until its sockets are bound.
    pub(crate) async fn start(kubeconfig: &str, policy: Option<&str>, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_in(OWN, kubeconfig, policy, settings).await
    }

    /// The same in another namespace.
    pub(crate) async fn start_in(
        own: &str,
        kubeconfig: &str,
        policy: Option<&str>,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_with(own, kubeconfig, policy, settings, BTreeMap::new()).await
    }

    /// The same with more settings, by their variables.
    pub(crate) async fn start_with(
        own: &str,
        kubeconfig: &str,
        policy: Option<&str>,
        settings: &[(&str, &str)],
        env: BTreeMap<String, String>,
    ) -> Result<Self> {
        crypto::install_default();
        let folder = Folder::new()?;
        folder.write("kubeconfig", kubeconfig)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let mut flags = vec![
            ("--kubeconfig".to_owned(), path("kubeconfig")),
            ("--addresses-file".to_owned(), path("addresses")),
        ];
        if let Some(policy) = policy {
            folder.write("policy.yaml", policy)?;
            flags.push(("--policy-file".to_owned(), path("policy.yaml")));
        }
        let usual = [
            ("--own-namespace", own),
            ("--leader-election-namespace", own),
            ("--serving-dns-names", SERVER),
            ("--grpc-addr", "127.0.0.1:0"),
            ("--readyz-addr", "127.0.0.1:0"),
            ("--metrics-addr", "127.0.0.1:0"),
        ];
        let said = usual
            .iter()
            .chain(settings)
            .map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned()));
        let args = flags.into_iter().chain(said).flat_map(|(flag, value)| [flag, value]);
        // A flag without a value.
        let args = args.filter(|text| !text.is_empty());
        let spec = Spec {
            name: "ra".to_owned(),
            binary: own_binary("ensign-ra")?,
            args: args.collect(),
            env,
        };
        let mut program = Program::start(spec, folder.path())?;
        let addresses = program.addresses(&folder.join("addresses")).await?;
        Ok(Self {
            program,
            folder,
            addresses,
        })
    }

    /// SIGKILL, then the same again.
    pub(crate) async fn kill_and_restart(&mut self) -> Result {
        self.program.kill().await?;
        self.restart().await
    }

    /// The same again after its end, at other addresses.
    pub(crate) async fn restart(&mut self) -> Result {
        std::fs::remove_file(self.folder.join("addresses"))?;
        self.program.restart()?;
        self.addresses = self.program.addresses(&self.folder.join("addresses")).await?;
        Ok(())
    }

    /// Ends it in the orderly way.
    pub(crate) async fn finish(self) -> Result {
        self.program.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Waits until it has ended in the orderly way, having been told to.
    pub(crate) async fn ended(mut self) -> Result {
        let status = self.program.ended(PATIENCE).await?;
        ensure!(
            status.success(),
            "the RA ended with {status}: {}",
            self.program.log().tail()
        );
        self.folder.discard();
        Ok(())
    }

    /// An address of it: `grpc`, `readyz`, `metrics`.
    pub(crate) fn address(&self, name: &str) -> Result<SocketAddr> {
        self.addresses
            .get(name)
            .copied()
            .with_context(|| format!("the RA has no address {name}"))
    }

    /// SIGTERM, waits for its end in order, then the same again, ready.
    pub(crate) async fn restart_in_order(&mut self) -> Result {
        let status = self.program.terminate().await?;
        ensure!(
            status.success(),
            "the RA ended with {status}: {}",
            self.program.log().tail()
        );
        self.restart().await?;
        self.ready().await
    }

    /// All metrics.
    pub(crate) async fn metrics(&self) -> Result<String> {
        http::get(self.address("metrics")?, "/metrics").await
    }

    /// The value of one series.
    pub(crate) async fn metric(&self, series: &str) -> Result<Option<f64>> {
        let metrics = self.metrics().await?;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .map(str::parse);
        Ok(value.transpose()?)
    }

    /// Status and text of `/readyz`.
    pub(crate) async fn readiness(&self) -> Result<(u16, String)> {
        let answer = http::request(self.address("readyz")?, Method::GET, "/readyz", &[]).await?;
        Ok((answer.status.as_u16(), answer.body))
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) -> Result {
        until("the RA to be ready", PATIENCE, async || {
            let (status, text) = self.readiness().await?;
            ensure!(status == 200, "{text}");
            Ok(())
        })
        .await
    }

    /// The serving certificate that a client with these roots is shown.
    pub(crate) async fn handshake(&self, roots: &str) -> Result<CertificateDer<'static>> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root?)?;
        }
        let config = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address("grpc")?).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from(SERVER)?, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Ok(shown.context("no certificate")?.clone().into_owned())
    }

    /// A certificate for a workload, from a client that trusts `roots`.
    pub(crate) async fn certificate(&self, roots: &str, token: &str, id: &str) -> Result<Vec<String>> {
        certificate(self.address("grpc")?, roots, token, id).await
    }
}

/// A certificate from the RA at this address, for a client that trusts `roots`.
pub(crate) async fn certificate(at: SocketAddr, roots: &str, token: &str, id: &str) -> Result<Vec<String>> {
    crypto::install_default();
    let roots = watch::channel(Arc::new(CaRoots::from_pem(roots.as_bytes())?)).1;
    let config = IstioCaConfig {
        address: format!("localhost:{}", at.port()).parse()?,
        server_name: Some(SERVER.to_owned()),
        cluster_id: "Kubernetes".to_owned(),
        headers: Vec::new(),
        deadline: PATIENCE,
    };
    let id: SpiffeId = id.parse()?;
    let key = PrivateKey::generate(KeyType::P256)?;
    let folder = Folder::new()?;
    folder.discard();
    let token = folder.write("token", token)?;
    let request = SignRequest {
        csr_pem: csr::build(&key, &id)?.to_pem(),
        id,
        signer: None,
        ttl: Duration::from_hours(1),
        token: Arc::new(FileToken::new(&token)),
        request_id: RequestId::from_bits(7),
    };
    Ok(IstioCa::new(config, roots)?.sign(request).await?.elements)
}

/// A workload with a pod: its token and its id.
pub(crate) async fn workload(bed: &Access, namespace: &str, name: &str) -> Result<(String, String)> {
    bed.service_account(namespace, name).await?;
    let pod = bed.pod(namespace, name, name, "node-1").await?;
    let token = bed.token(&TokenOf::new(namespace, name).pod(&pod)).await?;
    Ok((token, format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")))
}
