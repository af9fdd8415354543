//! What one certificate costs the API server, by its own audit log: three requests through the CSR API, and one for the token
//! at most.

use ensign_testbed::cluster::Cluster;
use ensign_testbed::wait::{self, PATIENCE};
use test_case::test_case;

use crate::fleet::Fleet;

const CERTIFICATES: usize = 5;

#[test_case(&[], 1; "token review")]
#[test_case(&[("--authn", "informer")], 0; "informer")]
#[tokio::test]
async fn a_certificate_costs_three_requests_and_one_for_its_token_at_most(
    settings: &[(&str, &str)],
    reviews: usize,
) -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let fleet = Fleet::new(&bed, "2m", "10s").await?;
    let ra = fleet.start_with(settings).await?;
    let ca = fleet.ca_of(&[&ra]).await?;
    let pods = fleet.pods(CERTIFICATES + 1, 2).await?;
    // All watches stand before we begin to count; so that informers know the pods, all of theirs are asked for.
    let known = if reviews == 0 { &pods[..] } else { &pods[CERTIFICATES..] };
    wait::until_true("a round without a question about tokens", PATIENCE, async || {
        let mark = bed.audit().mark().await?;
        for pod in known {
            fleet.client(&ca, pod).certificate().await?;
        }
        let asked = bed.audit().requests_by(&fleet.username).since(mark).await?;
        Ok(asked.count("create", "tokenreviews") == 0)
    })
    .await?;
    fleet.nothing_is_left().await?;

    let mark = bed.audit().mark().await?;
    for pod in &pods[..CERTIFICATES] {
        fleet.client(&ca, pod).certificate().await?;
    }
    fleet.nothing_is_left().await?;
    let asked = bed.audit().requests_by(&fleet.username).since(mark).await?;
    let asked = asked.without_election();
    assert_eq!(
        asked.count("create", "tokenreviews"),
        reviews * CERTIFICATES,
        "{asked:?}"
    );
    for (verb, resource) in [
        ("create", "certificatesigningrequests"),
        ("update", "certificatesigningrequests/approval"),
        ("delete", "certificatesigningrequests"),
    ] {
        assert_eq!(
            asked.count(verb, resource),
            CERTIFICATES,
            "{verb} {resource}: {asked:?}"
        );
    }
    assert_eq!(asked.0.len(), (3 + reviews) * CERTIFICATES, "{asked:?}");
    ra.finish().await?;
    fleet.finish();
    bed.finish().await
}
