//! Figure 2: how many certificates the RA issues over TLS, against the arithmetic and parsing that no authority avoids.

pub(crate) mod client;
pub(crate) mod raw;

use ensign_pki::{KeyType, PrivateKey, SpiffeId, TrustDomain, csr};
use ensign_testbed::world::World;
use serde::{Deserialize, Serialize};

use self::client::{Outcome, Question};
use self::raw::Raw;
use crate::peer::Peer;
use crate::report::{Table, verdict};
use crate::scale::Scale;
use crate::stats::{Spread, float_len, median};
use crate::{authority, machine, proc};

/// A request made beforehand.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Request {
    /// The workload's id.
    pub(crate) id: String,
    /// `sub` of its token.
    pub(crate) subject: String,
    /// Its token.
    pub(crate) token: String,
    /// Its CSR.
    pub(crate) csr_pem: String,
    /// The signer that it asks for.
    pub(crate) signer: String,
}

/// Measurements at one number of requests in flight.
#[derive(Debug, Default)]
struct Level {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    micros: Vec<u64>,
}

/// Runs it.
pub(crate) async fn run(scale: &Scale) -> anyhow::Result<Table> {
    let mut world = World::start(authority::world(ACCOUNTS, false)).await?;
    let requests = requests(&world, ACCOUNTS)?;
    let raw = Raw::new(&std::fs::read_to_string(world.folder().join("jwks.json"))?)?;
    let mut client = Peer::start("client-requests")?;
    let prepare = Question::Prepare {
        address: world.ra_address("grpc")?,
        root: world.folder().join("ra-root.pem"),
        requests: requests.clone(),
    };
    let _: Option<Outcome> = client.ask(&prepare).await?;

    let threads = machine::cores();
    let ra = world.ra().pid()?;
    let mut limits = Vec::new();
    let mut limits_cpu = Vec::new();
    let mut levels: [Level; IN_FLIGHT.len()] = Default::default();
    for _ in 0..scale.rounds {
        let used = proc::cpu_time(std::process::id())?;
        let rate = tokio::task::block_in_place(|| raw.rate(&requests, threads, scale.slice))?;
        let used = proc::cpu_time(std::process::id())?.saturating_sub(used);
        limits.push(rate);
        limits_cpu.push(used.as_secs_f64() * 1e6 / (rate * scale.slice.as_secs_f64()));
        for (level, in_flight) in levels.iter_mut().zip(IN_FLIGHT) {
            let used = proc::cpu_time(ra)?;
            let millis = u64::try_from(scale.slice.as_millis())?;
            let outcome: Option<Outcome> = client.ask(&Question::Run { in_flight, millis }).await?;
            let Some(mut outcome) = outcome else { continue };
            let used = proc::cpu_time(ra)?.saturating_sub(used);
            let count = float_len(outcome.micros.len());
            level.rates.push(count / outcome.seconds);
            level.cpu.push(used.as_secs_f64() * 1e6 / count);
            level.micros.append(&mut outcome.micros);
        }
    }
    world.finish().await?;
    Ok(table(threads, median(limits), median(limits_cpu), levels))
}

/// Requests of so many accounts of a world, each with a few keys.
pub(crate) fn requests(world: &World, accounts: usize) -> anyhow::Result<Vec<Request>> {
    let domain: TrustDomain = "cluster.local".parse()?;
    let mut requests = Vec::with_capacity(accounts * KEYS);
    for number in 0..accounts * KEYS {
        let account = authority::name(number % accounts);
        let id = SpiffeId::new(&domain, authority::SIGNER, &account)?;
        requests.push(Request {
            id: id.to_string(),
            subject: format!("system:serviceaccount:{}:{account}", authority::SIGNER),
            token: std::fs::read_to_string(world.folder().join(&format!("{account}.token")))?,
            csr_pem: csr::build(&PrivateKey::generate(KeyType::P256)?, &id)?.to_pem(),
            signer: authority::SIGNER.to_owned(),
        });
    }
    Ok(requests)
}

fn table(threads: usize, limit: f64, limit_cpu: f64, levels: [Level; IN_FLIGHT.len()]) -> Table {
    let text = format!(
        "The RA's own process with a local P-256 CA, over TLS 1.3, logging each certificate. P-256 CSRs and RS256 tokens, \
         made beforehand, of {ACCOUNTS} service accounts. The raw limit is what cannot be avoided: token and CSR parsed and \
         verified, certificate signed, checked against its root, written as PEM, in a plain loop without network, client or \
         log; it takes {limit_cpu:.0} µs of a processor ({limit:.0} certificates/s on {threads} threads while the machine did \
         other things too). The ratio is of processor time: the client and whatever else runs share the {threads} processors, \
         so certificates/s say more of the machine than of the RA."
    );
    let head = &[
        "in flight",
        "RA, CPU µs each",
        "of the raw limit",
        "RA, certificates/s",
        "p50",
        "p99",
        "goal",
    ];
    let mut table = Table::new("Certificates that the RA issues", text, head);
    for (level, in_flight) in levels.into_iter().zip(IN_FLIGHT) {
        let (rate, cpu) = (median(level.rates), median(level.cpu));
        let spread = Spread::of_micros(level.micros);
        let ratio = limit_cpu / cpu;
        table.row([
            in_flight.to_string(),
            format!("{cpu:.0}"),
            format!("{:.0} %", 100.0 * ratio),
            format!("{rate:.0}"),
            format!("{:.2} ms", spread.p50.as_secs_f64() * 1e3),
            format!("{:.2} ms", spread.p99.as_secs_f64() * 1e3),
            verdict("≥ 50 %", ratio >= 0.5),
        ]);
    }
    table
}

/// Requests in flight.
const IN_FLIGHT: [usize; 3] = [1, 32, 200];
/// More than the RA's limit for one caller would need at 200 in flight.
const ACCOUNTS: usize = 64;
/// CSRs of each account.
const KEYS: usize = 8;
