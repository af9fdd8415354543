//! The agent's own client asks an authority for one certificate, and the agent's own checks judge it: what passes here
//! would be served.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ensign_daemon::logging::chain;
use ensign_operator::preflight::{Answer, Ask, Issued, Refused};
use ensign_pki::{Certificate, Chain, KeyType, PrivateKey, SpiffeId, Svid, SystemClock, TrustDomain, csr};
use futures::future::BoxFuture;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::csr_client::{
    CaRoots, IstioCa, IstioCaConfig, RequestId, Sign as _, SignRequest, SignerName, Token, TokenError, TokenSource,
};

/// Asks once.
pub(super) fn ask(question: Ask) -> BoxFuture<'static, Answer> {
    Box::pin(asked(question))
}

async fn asked(question: Ask) -> Answer {
    let trust_domain: TrustDomain = question.trust_domain.parse().map_err(wrong("trust_domain"))?;
    let account = &question.account;
    let id = SpiffeId::new(&trust_domain, &account.namespace, &account.name).map_err(wrong("identity"))?;
    let signer = question.signer.as_deref().map(str::parse::<SignerName>).transpose();
    let signer = signer.map_err(wrong("signer_name"))?;
    let roots = CaRoots::from_pem(question.roots_pem.as_bytes()).map_err(wrong("bad_roots"))?;
    let (_held, roots) = watch::channel(Arc::new(roots));
    let config = IstioCaConfig {
        address: question.at.to_string().parse().map_err(wrong("address"))?,
        server_name: Some(question.server_name),
        cluster_id: question.cluster_id,
        headers: Vec::new(),
        deadline: PATIENCE,
    };
    let client = IstioCa::new(config, roots).map_err(wrong("server_name"))?;
    let key = PrivateKey::generate(KeyType::P256).map_err(wrong("key"))?;
    let request = SignRequest {
        csr_pem: csr::build(&key, &id).map_err(wrong("csr"))?.to_pem(),
        id: id.clone(),
        signer,
        ttl: TTL,
        token: Arc::new(Given(question.token)),
        request_id: RequestId::from_bits(fastrand::u64(..)),
    };
    let answer = client.sign(request).await.map_err(|error| Refused {
        reason: error.reason().to_owned(),
        message: chain(&error),
        request_id: error.request_id().map(ToString::to_string),
    })?;
    let until = judged(key, &answer.elements, &id)?;
    Ok(Issued {
        id: id.to_string(),
        until: OffsetDateTime::from(until).format(&Rfc3339).unwrap_or_default(),
    })
}

/// The end of a certificate that may be served. The key ends here.
fn judged(key: PrivateKey, elements: &[String], id: &SpiffeId) -> Result<SystemTime, Refused> {
    let chain = Chain::from_reply_elements(elements).map_err(|error| wrong(error.reason())(error))?;
    let Some(roots) = chain.roots().cloned() else {
        let message = "the reply carries no root certificate";
        return Err(wrong("no_roots")(message));
    };
    let end = chain.iter().map(Certificate::not_after).min();
    let now = SystemClock::shared().now();
    Svid::assemble(key, chain, &roots, id, now).map_err(|error| wrong(error.reason())(error))?;
    Ok(end.unwrap_or(now))
}

/// The error of a step, with the step's name.
fn wrong<E: fmt::Display>(reason: &'static str) -> impl FnOnce(E) -> Refused {
    move |error| Refused {
        reason: reason.to_owned(),
        message: error.to_string(),
        request_id: None,
    }
}

/// The token of one question.
struct Given(Zeroizing<String>);

impl TokenSource for Given {
    fn read(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        let token = Token::new(&self.0);
        Box::pin(async { token })
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given([redacted])")
    }
}

/// Nobody uses it; policies have a floor at about this.
const TTL: Duration = Duration::from_hours(1);
/// As long as an agent waits.
const PATIENCE: Duration = Duration::from_mins(1);
