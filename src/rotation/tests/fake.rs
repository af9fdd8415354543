//! A scripted certificate authority, a clock that moves with tokio's paused time, and a running rotation.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use ensign_pki::{Clock, KeyType, SpiffeId, csr::Csr};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::worker::start_with;
use super::super::{EntryState, Handle, Held, RotationConfig, Workload, WorkloadUid};
use crate::csr_client::{Answer, Replica, Sign, SignError, SignRequest, SignerName, Token, TokenError, TokenSource};

pub(crate) const EPOCH: u64 = 1_900_000_000;

/// Wall time: an epoch, plus tokio's elapsed time, plus steps.
#[derive(Debug)]
pub(crate) struct TestClock {
    origin: Instant,
    stepped: AtomicI64,
}

impl TestClock {
    pub(crate) fn step(&self, seconds: i64) {
        self.stepped.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH) + self.origin.elapsed();
        let stepped = self.stepped.load(Ordering::SeqCst);
        let step = Duration::from_secs(stepped.unsigned_abs());
        if stepped < 0 { now - step } else { now + step }
    }
}

/// A root that issues leaves.
#[derive(Debug)]
pub(crate) struct FakeCa {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root_pem: String,
}

impl FakeCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date(0);
        params.not_after = date(EPOCH + 400 * 24 * 3600);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root_pem,
        }
    }

    pub(crate) fn leaf(&self, spki_der: &[u8], id: &str, validity: (u64, u64), ca: bool) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date(validity.0);
        params.not_after = date(validity.1);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = rcgen::SubjectPublicKeyInfo::from_der(spki_der).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem()
    }
}

fn date(unix: u64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(i64::try_from(unix).unwrap()).unwrap()
}

/// What the authority does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Do {
    Issue,
    After(Duration),
    Refuse(tonic::Code),
    Hang,
    OtherKey,
    OtherSan,
    CaLeaf,
    ExpiredLeaf,
    ForeignRoot,
    NoRoot,
    Empty,
}

/// One request as it was seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) account: String,
    pub(crate) signer: Option<SignerName>,
    pub(crate) csr_pem: String,
}

/// The authority.
#[derive(Debug)]
pub(crate) struct FakeSign {
    pub(crate) clock: Arc<TestClock>,
    /// The CA in use and the roots that replies carry.
    pub(crate) ca: Mutex<(Arc<FakeCa>, Vec<String>)>,
    pub(crate) life: Mutex<Duration>,
    pub(crate) otherwise: Mutex<Do>,
    /// By service account.
    pub(crate) script: Mutex<HashMap<String, Do>>,
    pub(crate) seen: Mutex<Vec<Seen>>,
    /// Whose answers were wrong: each request is answered by a replica of its own, the first by number 0.
    pub(crate) left: Mutex<Vec<Replica>>,
    /// Now, and at most.
    pub(crate) in_flight: Mutex<(usize, usize)>,
}

struct InFlight<'f>(&'f FakeSign);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.lock().0 -= 1;
    }
}

impl FakeSign {
    async fn answer(&self, request: SignRequest) -> Result<Answer, SignError> {
        let account = request.id.service_account().to_owned();
        let by = self.saw(Seen {
            at: self.clock.origin.elapsed(),
            account: account.clone(),
            signer: request.signer.clone(),
            csr_pem: request.csr_pem.clone(),
        });
        {
            let mut in_flight = self.in_flight.lock();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        let _in_flight = InFlight(self);
        let what = self.script.lock().get(&account).cloned();
        let what = what.unwrap_or_else(|| self.otherwise.lock().clone());
        match what {
            Do::Hang => futures::future::pending().await,
            Do::After(latency) => tokio::time::sleep(latency).await,
            Do::Refuse(code) => return Err(SignError::from_status(&tonic::Status::new(code, "scripted"))),
            _ => {}
        }
        let csr = Csr::parse_pem(&request.csr_pem).unwrap();
        assert_eq!(csr.spiffe_id(), &request.id);
        let now = self
            .clock
            .now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let (ca, roots) = self.ca.lock().clone();
        let life = self.life.lock().as_secs();
        let span = (now - 120, now + life);
        let other = KeyPair::generate().unwrap();
        let other = rcgen::PublicKeyData::subject_public_key_info(&other);
        let leaf = match what {
            Do::OtherKey => ca.leaf(&other, request.id.as_str(), span, false),
            Do::OtherSan => ca.leaf(csr.spki_der(), "spiffe://cluster.local/ns/x/sa/other", span, false),
            Do::CaLeaf => ca.leaf(csr.spki_der(), request.id.as_str(), span, true),
            Do::ExpiredLeaf => ca.leaf(csr.spki_der(), request.id.as_str(), (now - 600, now - 1), false),
            Do::ForeignRoot => FakeCa::new().leaf(csr.spki_der(), request.id.as_str(), span, false),
            _ => ca.leaf(csr.spki_der(), request.id.as_str(), span, false),
        };
        let elements = match what {
            Do::Empty => vec![],
            Do::NoRoot => vec![leaf],
            _ => vec![leaf, roots.concat()],
        };
        Ok(Answer { elements, by })
    }

    fn saw(&self, request: Seen) -> Replica {
        let mut seen = self.seen.lock();
        seen.push(request);
        Replica(seen.len() as u64 - 1)
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().len()
    }

    pub(crate) fn of(&self, account: &str) -> Vec<Seen> {
        self.seen
            .lock()
            .iter()
            .filter(|seen| seen.account == account)
            .cloned()
            .collect()
    }

    pub(crate) fn script(&self, account: &str, what: Do) {
        self.script.lock().insert(account.to_owned(), what);
    }

    pub(crate) fn otherwise(&self, what: Do) {
        *self.otherwise.lock() = what;
    }
}

impl Sign for FakeSign {
    fn sign(&self, request: SignRequest) -> BoxFuture<'_, Result<Answer, SignError>> {
        Box::pin(self.answer(request))
    }

    fn leave(&self, replica: Replica) -> BoxFuture<'_, ()> {
        self.left.lock().push(replica);
        Box::pin(std::future::ready(()))
    }
}

#[derive(Debug)]
struct NoToken;

impl TokenSource for NoToken {
    fn read(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async { Token::new("token") })
    }
}

/// A running rotation with its authority.
pub(crate) struct Node {
    pub(crate) handle: Handle,
    pub(crate) sign: Arc<FakeSign>,
    pub(crate) clock: Arc<TestClock>,
    _tasks: JoinSet<()>,
}

pub(crate) fn config() -> RotationConfig {
    RotationConfig {
        adoption_window: Duration::from_secs(45),
        ..RotationConfig::default()
    }
}

impl Node {
    pub(crate) fn start(config: RotationConfig) -> Self {
        let clock = Arc::new(TestClock {
            origin: Instant::now(),
            stepped: AtomicI64::new(0),
        });
        let ca = Arc::new(FakeCa::new());
        let roots = vec![ca.root_pem.clone()];
        let sign = Arc::new(FakeSign {
            clock: Arc::clone(&clock),
            ca: Mutex::new((ca, roots)),
            life: Mutex::new(Duration::from_hours(24)),
            otherwise: Mutex::new(Do::Issue),
            script: Mutex::default(),
            seen: Mutex::default(),
            left: Mutex::default(),
            in_flight: Mutex::default(),
        });
        Self::with(config, clock, sign)
    }

    fn with(config: RotationConfig, clock: Arc<TestClock>, sign: Arc<FakeSign>) -> Self {
        let shared: ensign_pki::SharedClock = Arc::<TestClock>::clone(&clock);
        let signer: Arc<dyn Sign> = Arc::<FakeSign>::clone(&sign);
        let (handle, worker) = start_with(config, signer, shared, fastrand::Rng::with_seed(7));
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run(CancellationToken::new()));
        Self {
            handle,
            sign,
            clock,
            _tasks: tasks,
        }
    }

    /// The agent's successor: same authority, same time, no memory.
    pub(crate) fn restart(&self, config: RotationConfig) -> Self {
        Self::with(config, Arc::clone(&self.clock), Arc::clone(&self.sign))
    }

    pub(crate) fn add(&self, account: &str) -> WorkloadUid {
        let workload = workload(account);
        self.handle.put(workload.clone());
        workload.uid
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }
}

pub(crate) fn workload(account: &str) -> Workload {
    let id: SpiffeId = format!("spiffe://cluster.local/ns/foo/sa/{account}").parse().unwrap();
    Workload {
        uid: WorkloadUid::new(&format!("test/{account}")),
        id,
        token: Arc::new(NoToken),
        signers: [None].into(),
        key_type: KeyType::P256,
        returning: false,
    }
}

/// What one entry offers before and after its signer went from one root to another, with both in its bundle.
pub(crate) async fn two_states() -> [EntryState; 2] {
    let node = Node::start(config());
    let stream = node.handle.subscribe(&node.add("web"), None, Held::Nothing).unwrap();
    pass(60).await;
    let before = stream.state();
    let new = Arc::new(FakeCa::new());
    let roots = vec![node.sign.ca.lock().1[0].clone(), new.root_pem.clone()];
    *node.sign.ca.lock() = (new, roots);
    pass(24 * 3600).await;
    [before, stream.state()]
}

/// Lets this much time pass; all timers in it fire in order.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
