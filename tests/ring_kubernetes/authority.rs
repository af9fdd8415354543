//! A real `ensign-ra` that comes to the API server as an account with exactly the rights that a test gives it, and its
//! clients: as an agent, a sidecar or a ztunnel would ask.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use ensign_pki::{Certificate, KeyType, PrivateKey, SpiffeId, crypto, csr};
use ensign_proto::istio::v1::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use ensign_testbed::{
    cluster::{Access, Places},
    folder::Folder,
    http as plain,
    process::{Program, Spec, own_binary},
    wait::{PATIENCE, until, until_true},
};
use http::Method;
use hyper_util::rt::TokioIo;
use prost_types::{Struct, Value, value::Kind};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::json;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

/// A running RA with two signers of its own, `foo` and `bar`.
pub(crate) struct Authority {
    folder: Folder,
    program: Program,
    addresses: BTreeMap<String, SocketAddr>,
    channel: Channel,
    /// The name by which the audit log knows it.
    pub(crate) user: String,
    /// Its own namespace, which is also the one of remote secrets.
    pub(crate) namespace: String,
}

/// One request under construction.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) token: Option<String>,
    pub(crate) id: String,
    pub(crate) cluster: Option<String>,
    pub(crate) impersonated: Option<String>,
    pub(crate) signer: Option<String>,
    pub(crate) timeout: Option<Duration>,
}

/// A certificate, and what the log says of it.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) signer: String,
    pub(crate) proof: String,
    pub(crate) cluster: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
}

/// No certificate: what the client learns, and what the log says of it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    /// All that the client learns beside it.
    pub(crate) text: String,
    pub(crate) reason: String,
    pub(crate) detail: String,
}

/// Modes of rbac.yaml: what `--authn=token-review` needs.
pub(crate) const REVIEWS: &[&str] = &["base"];
/// What `--authn=informer` needs; its fallback is TokenReview.
pub(crate) const INFORMERS: &[&str] = &["base", "pods", "service-accounts"];
/// What `--ca-trusted-node-accounts` needs with TokenReview.
pub(crate) const REVIEWS_AND_PODS: &[&str] = &["base", "pods"];

// === impl Authority ===

impl Authority {
    /// One that may do what these modes of rbac.yaml need, and whose policy is `rules`: namespace, signers, default.
    pub(crate) async fn start(
        bed: &Access,
        modes: &[&str],
        rules: &[(&str, &[&str], &str)],
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        crypto::install_default();
        let namespace = bed.namespace("ra").await?;
        let account = Places::in_one(&namespace).grant(bed, modes).await?;
        let folder = Folder::new()?;
        folder.write("kubeconfig", account.kubeconfig)?;
        folder.write("policy.yaml", policy(&folder, rules))?;
        let path = |name: &str| folder.join(name).display().to_string();
        let mut args: Vec<String> = [
            ("--kubeconfig", path("kubeconfig")),
            ("--policy-file", path("policy.yaml")),
            ("--serving-ca-dir", path("serving-ca")),
            ("--serving-root-file", path("ra-root.pem")),
            ("--istio-namespace", namespace.clone()),
            ("--grpc-addr", "127.0.0.1:0".to_owned()),
            ("--readyz-addr", "127.0.0.1:0".to_owned()),
            ("--metrics-addr", "127.0.0.1:0".to_owned()),
            ("--addresses-file", path("addresses")),
            ("--log-format", "json".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        let spec = Spec {
            name: "ra".to_owned(),
            binary: own_binary("ensign-ra")?,
            args,
            env: BTreeMap::new(),
        };
        let mut program = Program::start(spec, folder.path())?;
        let addresses = program.addresses(&folder.join("addresses")).await?;
        let grpc = *addresses.get("grpc").context("no grpc address")?;
        let root = until("the RA's root", PATIENCE, async || {
            Ok(CertificateDer::from_pem_file(folder.join("ra-root.pem"))?)
        })
        .await?;
        let authority = Self {
            channel: channel(grpc, root),
            user: account.username,
            folder,
            program,
            addresses,
            namespace,
        };
        Ok(authority)
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        until("the RA to be ready", PATIENCE, async || {
            let answer = plain::get(self.addresses["readyz"], "/readyz").await;
            answer.map(drop).context("/readyz")
        })
        .await
    }

    /// What it says is missing while it is not ready.
    pub(crate) async fn missing(&self) -> anyhow::Result<String> {
        let answer = plain::request(self.addresses["readyz"], Method::GET, "/readyz", &[]).await?;
        ensure!(!answer.status.is_success(), "ready: {}", answer.body);
        Ok(answer.body)
    }

    /// Waits until its tokens are judged by informers.
    pub(crate) async fn informed(&self, ask: &Ask) -> anyhow::Result<()> {
        until_true("tokens to be judged by informers", PATIENCE, async || {
            Ok(self.ask(ask).await?.is_ok_and(|granted| granted.proof == "informer"))
        })
        .await
    }

    pub(crate) async fn metric(&self, series: &str) -> anyhow::Result<u64> {
        let text = plain::get(self.addresses["metrics"], "/metrics").await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map_or(0, |value| value.parse().unwrap_or(0)))
    }

    pub(crate) fn log(&self) -> &ensign_testbed::process::Log {
        self.program.log()
    }

    /// Asks, and checks that a granted certificate is for the id asked for.
    pub(crate) async fn ask(&self, ask: &Ask) -> anyhow::Result<Result<Granted, Refused>> {
        let id: SpiffeId = ask.id.parse()?;
        let key = PrivateKey::generate(KeyType::P256)?;
        let csr = csr::build(&key, &id)?.to_pem();
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        match client.create_certificate(ask.request(csr)?).await {
            Ok(response) => {
                let line = self.line(response.metadata()).await?;
                let chain = response.into_inner().cert_chain;
                ensure!(chain.len() >= 2, "a reply of {} elements", chain.len());
                let leaf = Certificate::parse_pem(&chain[0])?;
                ensure!(leaf.spki_der() == key.spki_der(), "a certificate for another key");
                let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
                Ok(Ok(Granted {
                    signer: text("signer"),
                    proof: text("proof"),
                    cluster: text("cluster"),
                    namespace: text("namespace"),
                    service_account: text("service_account"),
                }))
            }
            Err(status) => Ok(Err(self.refused(&status).await?)),
        }
    }

    /// Asks, and must be granted.
    pub(crate) async fn granted(&self, ask: &Ask) -> anyhow::Result<Granted> {
        match self.ask(ask).await? {
            Ok(granted) => Ok(granted),
            Err(refused) => anyhow::bail!("refused: {refused:?}"),
        }
    }

    /// Asks with a CSR that may be anything, and must be refused.
    pub(crate) async fn refuses_csr(&self, ask: &Ask, csr: String) -> anyhow::Result<Refused> {
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        match client.create_certificate(ask.request(csr)?).await {
            Ok(response) => anyhow::bail!("granted: {:?}", response.into_inner()),
            Err(status) => self.refused(&status).await,
        }
    }

    /// Sends something that is not even read: the code of the answer.
    pub(crate) async fn refuses_unread(&self, ask: &Ask, csr: String) -> anyhow::Result<Code> {
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(ask.request(csr)?).await;
        Ok(answer.err().context("granted")?.code())
    }

    /// Asks, and must be refused so.
    pub(crate) async fn refuses(&self, ask: &Ask, code: Code, reason: &str) -> anyhow::Result<Refused> {
        match self.ask(ask).await? {
            Ok(granted) => anyhow::bail!("granted: {granted:?}, expected {reason}"),
            Err(refused) => {
                let seen = (refused.code, refused.reason.as_str());
                ensure!(seen == (code, reason), "{refused:?}, expected {code:?} {reason}");
                Ok(refused)
            }
        }
    }

    /// Asks until it is refused so: what was revoked counts for a documented time.
    pub(crate) async fn comes_to_refuse(&self, ask: &Ask, code: Code, reason: &str) -> anyhow::Result<()> {
        let refused = async || self.refuses(ask, code, reason).await.map(drop);
        until(&format!("a refusal with {reason}"), PATIENCE, refused).await
    }

    async fn refused(&self, status: &Status) -> anyhow::Result<Refused> {
        let line = self
            .line(status.metadata())
            .await
            .with_context(|| format!("{status:?}"))?;
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        Ok(Refused {
            code: status.code(),
            text: status.message().to_owned(),
            reason: text("reason"),
            detail: text("detail"),
        })
    }

    /// The log line of a request, by the id in its answer.
    async fn line(&self, metadata: &tonic::metadata::MetadataMap) -> anyhow::Result<serde_json::Value> {
        let id = metadata.get("x-request-id").context("an answer without a request id")?;
        let id = id.to_str()?.to_owned();
        let line = self.log().wait("the request's line", |line| line.contains(&id)).await?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Ends it as an operator would.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        let status = self.program.terminate().await?;
        ensure!(status.success(), "ended with {status}:\n{}", self.log().tail());
        self.folder.discard();
        Ok(())
    }
}

// === impl Ask ===

impl Ask {
    /// For an account's own identity, by its token.
    pub(crate) fn own(namespace: &str, account: &str, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            id: id(namespace, account),
            cluster: None,
            impersonated: None,
            signer: None,
            timeout: None,
        }
    }

    /// As a node proxy asks for a pod of its node.
    pub(crate) fn for_pod(namespace: &str, account: &str, token: &str) -> Self {
        let own = Self::own(namespace, account, token);
        Self {
            impersonated: Some(own.id.clone()),
            ..own
        }
    }

    pub(crate) fn in_cluster(self, cluster: &str) -> Self {
        Self {
            cluster: Some(cluster.to_owned()),
            ..self
        }
    }

    pub(crate) fn of_signer(self, signer: &str) -> Self {
        Self {
            signer: Some(signer.to_owned()),
            ..self
        }
    }

    pub(crate) fn within(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    fn request(&self, csr: String) -> anyhow::Result<Request<IstioCertificateRequest>> {
        let mut fields = BTreeMap::new();
        let extras = [
            ("ImpersonatedIdentity", &self.impersonated),
            ("CertSigner", &self.signer),
        ];
        for (name, value) in extras {
            if let Some(value) = value {
                let kind = Some(Kind::StringValue(value.clone()));
                fields.insert(name.to_owned(), Value { kind });
            }
        }
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: 3600,
            metadata: Some(Struct { fields }),
        });
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse()?);
        }
        if let Some(cluster) = &self.cluster {
            request.metadata_mut().insert("clusterid", cluster.parse()?);
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        Ok(request)
    }
}

pub(crate) fn id(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// A kubeconfig of an account that may do what these modes need, as a remote secret holds it.
pub(crate) async fn remote_kubeconfig(remote: &Access, modes: &[&str]) -> anyhow::Result<String> {
    let namespace = remote.namespace("reader").await?;
    let account = Places::in_one(&namespace).grant(remote, modes).await?;
    Ok(account.kubeconfig)
}

fn policy(folder: &Folder, rules: &[(&str, &[&str], &str)]) -> String {
    let signer = |name: &str| json!({"name": name, "local": {"dir": folder.join(name), "selfSigned": true}});
    let rules: Vec<_> = rules
        .iter()
        .map(|(namespace, signers, default)| {
            json!({"namespace": namespace, "serviceAccounts": ["*"], "signers": signers, "default": default})
        })
        .collect();
    let policy = json!({"apiVersion": "ensign.mesh/v1", "trustDomain": "cluster.local",
        "ttl": {"default": "1h", "min": "10m", "max": "24h"},
        "signers": [signer("foo"), signer("bar")], "rules": rules});
    format!("{policy:#}\n")
}

fn channel(address: SocketAddr, root: CertificateDer<'static>) -> Channel {
    let connect = service_fn(move |_: Uri| {
        let root = root.clone();
        async move {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(root).map_err(std::io::Error::other)?;
            let mut tls = rustls::ClientConfig::builder_with_provider(crypto::provider())
                .with_safe_default_protocol_versions()
                .map_err(std::io::Error::other)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            tls.alpn_protocols = vec![b"h2".to_vec()];
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
                .connect(name, stream)
                .await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
}
