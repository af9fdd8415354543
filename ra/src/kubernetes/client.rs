//! One client per API server, over HTTP/2, without retries of its own.
//!
//! kube's stock client speaks HTTP/1.1 (a connection per request in flight) and repeats 429, 503 and 504 by itself for
//! minutes. Ours multiplexes, finds dead connections by HTTP/2 pings, bounds every request but a watch, and leaves
//! repeating to those who know the caller's deadline. Credentials and the CA are read again as they change on disk.

use std::path::PathBuf;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tower::{BoxError, ServiceBuilder};

use super::error::ApiError;
use super::meter::{KubernetesMetrics, Meter};

/// Where the API server is, and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterSource {
    /// The cluster that this pod runs in.
    InCluster,
    /// A kubeconfig file and perhaps one of its contexts.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context; the file's current one without it.
        context: Option<String>,
    },
}

/// A connected API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    username: String,
    metrics: KubernetesMetrics,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Not in a pod, or its service account is not mounted.
    #[error("no in-cluster configuration: {0}; outside a pod name a file with --kubeconfig")]
    InCluster(#[source] kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// A certificate, key or name in the configuration cannot be used.
    #[error("the configuration of the API server's client is refused: {0}")]
    Client(String),
    /// The API server did not say who we are.
    #[error("the API server at {server} did not answer who we are: {source}")]
    WhoAmI {
        /// Where it was looked for.
        server: String,
        /// Its answer.
        source: ApiError,
    },
}

/// Connects and asks the server who we are.
pub async fn connect(source: &ClusterSource, metrics: &KubernetesMetrics) -> Result<Cluster, ConnectError> {
    let config = load(source).await?;
    Cluster::connect(config, metrics).await
}

async fn load(source: &ClusterSource) -> Result<Config, ConnectError> {
    match source {
        ClusterSource::InCluster => Config::incluster().map_err(ConnectError::InCluster),
        ClusterSource::Kubeconfig { path, context } => {
            let refused = |source| ConnectError::Kubeconfig {
                path: path.display().to_string(),
                source,
            };
            let options = KubeConfigOptions {
                context: context.clone(),
                ..KubeConfigOptions::default()
            };
            let file = Kubeconfig::read_from(path).map_err(refused)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(refused)
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Connects by a configuration that was checked elsewhere, such as that of a remote cluster.
    pub async fn connect(config: Config, metrics: &KubernetesMetrics) -> Result<Self, ConnectError> {
        let server = config.cluster_url.to_string();
        let client = client(&config, metrics).map_err(|error| ConnectError::Client(error.to_string()))?;
        let review = Api::<SelfSubjectReview>::all(client.clone())
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await
            .map_err(ApiError::from);
        let username = match review {
            Ok(review) => review.status.and_then(|status| status.user_info?.username),
            Err(source) => return Err(ConnectError::WhoAmI { server, source }),
        };
        Ok(Self {
            client,
            username: username.unwrap_or_default(),
            metrics: metrics.clone(),
        })
    }

    /// One that a test answers for, with our own bound, counts and eye on Retry-After before it.
    #[cfg(test)]
    pub(crate) fn answered_by<S, B>(service: S, username: &str) -> Self
    where
        S: tower::Service<http::Request<Body>, Response = http::Response<B>, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let metrics = KubernetesMetrics::default();
        let service = ServiceBuilder::new()
            .layer(Meter::new(metrics.clone(), REQUEST_TIMEOUT))
            .service(service);
        Self {
            client: Client::new(service, "default"),
            username: username.to_owned(),
            metrics,
        }
    }

    /// The client, for an `Api`.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of our own pod, or that of the kubeconfig's context.
    pub fn own_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Where watches of this server are counted.
    pub fn metrics(&self) -> &KubernetesMetrics {
        &self.metrics
    }

    /// Our name to this server: what it stamps on the objects that we create.
    pub fn username(&self) -> &str {
        &self.username
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

fn client(config: &Config, metrics: &KubernetesMetrics) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    let mut tls = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = ServerName::try_from(name.clone()).map_err(|error| kube::Error::Service(Box::new(error)))?;
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    // HTTP/1.1 stays for servers and proxies that know nothing else; ALPN decides.
    let connector = tls.enable_all_versions().wrap_connector(tcp);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(Meter::new(metrics.clone(), REQUEST_TIMEOUT))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Two lost pings are noticed before a client of ours gives up on its certificate.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the 10 s that a slow webhook may take, shorter than anybody's patience.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
