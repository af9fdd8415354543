//! Figure 1: how many CSRs an agent makes, against the two signatures' worth of arithmetic that it cannot do without.

use std::time::Instant;

use anyhow::Context;
use ensign_pki::{KeyType, PrivateKey, SpiffeId, TrustDomain, csr};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::provider;
use crate::report::Table;
use crate::scale::Scale;
use crate::stats::{float, median};

/// Runs it.
pub(crate) fn run(scale: &Scale) -> anyhow::Result<Table> {
    let domain: TrustDomain = "cluster.local".parse()?;
    let id = SpiffeId::new(&domain, "foo", "httpbin")?;
    let example = csr::build(&PrivateKey::generate(KeyType::P256)?, &id)?;
    let (_, parsed) = X509CertificationRequest::from_der(example.der())?;
    let to_sign = parsed.certification_request_info.raw.to_vec();

    let (mut ours, mut raws) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds * 3 {
        raws.push(rate(scale, || provider::make_key_and_sign(&to_sign))?);
        ours.push(rate(scale, || {
            // As `rotation` prepares a request.
            let key = PrivateKey::generate(KeyType::P256)?;
            Ok(csr::build(&key, &id)?.to_pem().len())
        })?);
    }
    let (ours, raw) = (median(ours), median(raws));
    let mut table = Table::new(
        "CSRs that the agent makes",
        "P-256, one thread: a new key, the CSR, its PEM, as for each renewal. The raw limit makes a key and signs the same bytes."
            .to_owned(),
        &["agent, CSR/s", "raw limit, /s", "ratio"],
    );
    table.row([
        format!("{ours:.0}"),
        format!("{raw:.0}"),
        format!("{:.0} %", 100.0 * ours / raw),
    ]);
    Ok(table)
}

/// Calls per second.
fn rate(scale: &Scale, mut work: impl FnMut() -> anyhow::Result<usize>) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < scale.slice / 4 {
        let length = work().context("round")?;
        std::hint::black_box(length);
        count += 1;
    }
    Ok(float(count) / began.elapsed().as_secs_f64())
}
