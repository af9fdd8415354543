//! What is left of a key in the agent's memory when its workload is gone.
//!
//! Only our own copies are asserted on: the PKCS#8 document in `pki`, and the PEM in the encoded secret. The crypto provider
//! keeps one more (the scalar in its own byte order), which it frees without wiping; SECURITY.md says so.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use aho_corasick::AhoCorasick;
use ensign_testbed::world::{World, WorldSpec};
use ensign_testkit::fake_envoy::certificate;
use ensign_testkit::{FakeEnvoy, eventually, patience};

use ensign_testkit::leak::scalar;

/// How often each needle is in the memory of a process that can be written to; `None` if we may not look.
fn copies(pid: u32, needles: &[Vec<u8>]) -> Option<Vec<usize>> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let search = AhoCorasick::new(needles).unwrap();
    let mut counts = vec![0; needles.len()];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        let mut bytes = vec![0; usize::try_from(to - from).ok()?];
        // A region may be gone since.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            search.find_iter(&bytes).for_each(|hit| counts[hit.pattern()] += 1);
        }
    }
    Some(counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_copies_of_a_key_are_wiped_with_its_workload() {
    let mut world = World::start(WorldSpec::foo_and_bar(&[("foo", "stays"), ("foo", "goes")]))
        .await
        .unwrap();
    let socket = world.socket("goes");
    let envoy = eventually("the socket", async || FakeEnvoy::connect(&socket).await)
        .await
        .with_cert_signer("foo");
    let mut stream = envoy.subscribe(&["default"]).await;
    let secret = stream.next_secret(patience()).await;
    let (_, pem) = certificate(&secret).unwrap();
    let (scalar, text) = scalar(&pem);
    // The armour breaks its line within the scalar: what stands after the break is in one piece.
    let needles = [scalar, text[text.len() - 24..].to_vec()];
    let pid = world.agent().pid().unwrap();
    if let Some(served) = copies(pid, &needles) {
        assert!(served.iter().all(|&count| count > 0), "while it is served: {served:?}");
        drop((stream, envoy));
        world.spec_mut().workloads.retain(|workload| workload.name == "stays");
        world.write_workloads().unwrap();
        eventually("the key to be wiped", async || {
            let left = copies(pid, &needles).unwrap();
            if left == [0, 0] {
                Ok(())
            } else {
                Err(format!("{left:?} copies of PKCS#8 and PEM"))
            }
        })
        .await;
    }
    world.finish().await.unwrap();
}
