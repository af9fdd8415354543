//! Compiles the `.proto` subsets of this folder with protox, so that no `protoc` is needed.
//!
//! Owns two choices: `google.protobuf.Any` becomes our redacting `Any`, and each message that can
//! carry a key, a token or a node gets no derived `Debug` (`src/redacted.rs` writes it by hand).

use std::error::Error;

const ENVOY: &[&str] = &[
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
];
const ISTIO: &[&str] = &["istio/security/v1alpha1/ca.proto"];
const KUBELET: &[&str] = &["csi/v1/csi.proto", "kubelet/pluginregistration/v1/api.proto"];

/// Messages whose `Debug` is written by hand.
const REDACTED: &[&str] = &[
    ".envoy.config.core.v3.DataSource",
    ".envoy.service.discovery.v3.DiscoveryRequest",
    ".envoy.service.discovery.v3.DeltaDiscoveryRequest",
    ".csi.v1.NodePublishVolumeRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["envoy", "istio", "google", "csi", "kubelet"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    // The agent answers SDS with a tower service of its own (memory per stream), so only a client is made.
    compile(ENVOY, false)?;
    compile(ISTIO, true)?;
    compile(KUBELET, true)
}

fn compile(files: &[&str], server: bool) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .build_server(server)
        .build_client(true)
        // Shared, not copied: one encoded secret serves every stream.
        .bytes(".")
        .extern_path(".google.protobuf.Any", "crate::Any")
        .skip_debug(REDACTED)
        .compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
