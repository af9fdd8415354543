//! The crypto provider on the wire: keys of every kind that it makes work between Envoys.
//!
//! The one test of this ring that also runs with the other provider (`make test-aws-lc-rs`).

use ensign_pki::{KeyType, crypto};
use ensign_testbed::{
    scenario::{self, Mesh, apart::signers_are_kept_apart},
    story::Story,
    world::{World, WorldSpec},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_other_types_than_the_usual_one_work_on_the_wire() -> anyhow::Result<()> {
    // ring makes no RSA keys, and the agent says so at start.
    let (server_keys, server_signature) = if crypto::MAKES_RSA_KEYS {
        (KeyType::Rsa2048, "rsa_pss_rsae_sha256")
    } else {
        (KeyType::P256, "ecdsa_secp256r1_sha256")
    };
    let mut story = Story::default();
    let spec = WorldSpec::foo_and_bar(&scenario::WORKLOADS)
        .with_keys("httpbin", &server_keys.to_string())
        .with_keys("sleep", &KeyType::P384.to_string());
    let world = World::start(spec).await?;
    let mesh = Mesh::start(&world, &mut story).await?;
    signers_are_kept_apart(&world, &mesh, &mut story).await?;

    // Each Envoy counts the kind of signature with which its peer proved that it has the key.
    let client = mesh.sleep.admin().stats().await?;
    let of_server = format!("cluster.httpbin.ssl.sigalgs.{server_signature}");
    assert!(client.get(&of_server) > 0, "{:?}", client.matching("ssl.sigalgs"));
    let server = mesh.httpbin.admin().stats().await?;
    let of_client = server.sum(".ssl.sigalgs.ecdsa_secp384r1_sha384");
    assert!(of_client > 0, "{:?}", server.matching("ssl.sigalgs"));
    drop(mesh);
    world.finish().await
}
