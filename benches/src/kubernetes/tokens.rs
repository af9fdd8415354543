//! Requests beyond number, made beforehand, each with a token and a key of its own.
//!
//! The API server issues one real token for each workload. Its twins differ in `jti` alone and are signed with the
//! cluster's own key, so that no two requests of a run share a token, and making them costs the API server nothing.

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ensign_pki::{KeyType, PrivateKey, SpiffeId, TrustDomain, csr};
use ensign_testbed::cluster::{Cluster, TokenOf};
use rustls_pki_types::PrivatePkcs1KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::issue::Request;
use crate::machine;
use crate::provider::Rs256;

/// Makes requests of the workloads in turn.
pub(super) struct Mint {
    key: Rs256,
    workloads: Vec<Workload>,
}

struct Workload {
    id: SpiffeId,
    subject: String,
    /// Of the real token, encoded.
    header: String,
    /// Of the real token.
    claims: Value,
}

// === impl Mint ===

impl Mint {
    /// Makes so many workloads with a pod each in a namespace, and has a real token of each.
    pub(super) async fn open(bed: &Cluster, namespace: &str, workloads: usize) -> anyhow::Result<Self> {
        let key = PrivatePkcs1KeyDer::from_pem_file(bed.folder().join("pki/service-accounts.key"))?;
        let domain: TrustDomain = "cluster.local".parse()?;
        let mut made = Vec::with_capacity(workloads);
        for number in 0..workloads {
            let name = format!("workload-{number}");
            bed.service_account(namespace, &name).await?;
            let pod = bed.pod(namespace, &name, &name, "node-1").await?;
            let token = bed.token(&TokenOf::new(namespace, &name).pod(&pod)).await?;
            let mut parts = token.split('.');
            let header = parts.next().unwrap_or_default().to_owned();
            let claims = URL_SAFE_NO_PAD.decode(parts.next().context("a token without claims")?)?;
            made.push(Workload {
                id: SpiffeId::new(&domain, namespace, &name)?,
                subject: format!("system:serviceaccount:{namespace}:{name}"),
                header,
                claims: serde_json::from_slice(&claims)?,
            });
        }
        Ok(Self {
            key: Rs256::new(key.secret_pkcs1_der())?,
            workloads: made,
        })
    }

    /// So many requests, on all processors.
    pub(super) fn requests(&self, count: usize, signer: &str) -> anyhow::Result<Vec<Request>> {
        let threads = machine::cores();
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || {
                        let mine = (thread..count).step_by(threads);
                        mine.map(|number| self.request(number, signer))
                            .collect::<anyhow::Result<Vec<_>>>()
                    })
                })
                .collect();
            let mut requests = Vec::with_capacity(count);
            for thread in running {
                let made = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
                requests.extend(made);
            }
            Ok(requests)
        })
    }

    fn request(&self, number: usize, signer: &str) -> anyhow::Result<Request> {
        let workload = self.workloads.get(number % self.workloads.len().max(1));
        let workload = workload.context("there is no workload")?;
        Ok(Request {
            id: workload.id.to_string(),
            subject: workload.subject.clone(),
            token: self.twin(workload)?,
            csr_pem: csr::build(&PrivateKey::generate(KeyType::P256)?, &workload.id)?.to_pem(),
            signer: signer.to_owned(),
        })
    }

    fn twin(&self, workload: &Workload) -> anyhow::Result<String> {
        let mut claims = workload.claims.clone();
        claims["jti"] = json!(format!("{:032x}", fastrand::u128(..)));
        let message = format!("{}.{}", workload.header, URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
