//! The end-to-end story, as functions that both the demo and the tests run.
//!
//! [`Mesh`] is the cast: three real Envoys, two with certificates of signer `foo`, one of `bar`. Each other module is
//! one scenario: it takes the mesh, tells its [`Story`], and fails with an error at the first claim that does not hold.

pub mod apart;
pub mod outage;
pub mod policy;
pub mod restart;
pub mod roots;
pub mod rotation;

use anyhow::ensure;

use crate::{envoy::Envoy, story::Story, world::World};

/// Three Envoys of one world. `httpbin` and `sleep` are of foo, `ratings` is of bar.
#[derive(Debug)]
pub struct Mesh {
    /// Serves; of foo.
    pub httpbin: Envoy,
    /// Calls `httpbin` and `ratings`; of foo.
    pub sleep: Envoy,
    /// Serves, and calls `httpbin`; of bar.
    pub ratings: Envoy,
}

/// The workloads of [`Mesh`], as (namespace, account).
pub const WORKLOADS: [(&str, &str); 3] = [("foo", "httpbin"), ("foo", "sleep"), ("bar", "ratings")];

impl Mesh {
    /// Starts them and waits until each has its certificate.
    pub async fn start(world: &World, story: &mut Story) -> anyhow::Result<Self> {
        story.chapter("Three real Envoys get their certificates");
        let httpbin_id = world.id("httpbin")?;
        let httpbin = world.start_envoy(world.envoy("httpbin")?.serving()).await?;
        let ratings = world
            .envoy("ratings")?
            .serving()
            .calling("httpbin", httpbin.inbound()?, &httpbin_id);
        let ratings = world.start_envoy(ratings).await?;
        let sleep = world
            .envoy("sleep")?
            .calling("httpbin", httpbin.inbound()?, &httpbin_id);
        let sleep = sleep.calling("ratings", ratings.inbound()?, &world.id("ratings")?);
        let sleep = world.start_envoy(sleep).await?;
        for envoy in [&httpbin, &sleep, &ratings] {
            envoy.ready().await?;
            let id = world.id(envoy.name())?;
            let loaded = envoy.admin().certificates().await?;
            ensure!(!loaded.is_empty(), "{} is ready and has no certificate", envoy.name());
            for entry in &loaded {
                ensure!(
                    entry.uris == [id.clone()],
                    "{} has {:?} instead of {id}",
                    envoy.name(),
                    entry.uris
                );
                ensure!(!entry.roots.is_empty(), "{} has no root", envoy.name());
            }
            story.claim(
                &format!("{} has the certificate of {id}, and trusts one signer", envoy.name()),
                &format!(
                    "its /certs: serial {}, root {} (http://{}/certs)",
                    loaded[0].chain.join(" "),
                    loaded[0].roots.join(" "),
                    envoy.admin().address()
                ),
            );
        }
        Ok(Self {
            httpbin,
            sleep,
            ratings,
        })
    }
}
