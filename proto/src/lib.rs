//! Ensign's own subsets of the protocols that it speaks: Envoy's SDS, Istio's certificate service, and what kubelet
//! speaks with a CSI driver.
//!
//! Owns the messages (generated from the `.proto` files of this crate, with the public packages, names
//! and field numbers), the reading of Envoy's node without decoding it ([`node`]), and a `Debug` that
//! prints no key material and no token. Promises wire compatibility: `tests/wire.rs` checks it field by field.
//! Leaves every decision about what is in a message to the agent and the RA.

mod any;
pub mod node;
mod redacted;

pub use any::Any;

/// `type_url` of an SDS resource: the [`Secret`](envoy::extensions::transport_sockets::tls::v3::Secret) message.
pub const SECRET_TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Request paths of `SecretDiscoveryService`, for a server that routes them itself.
pub mod sds_path {
    /// State of the world, a stream in both directions.
    pub const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
    /// Incremental, a stream in both directions.
    pub const DELTA_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
    /// One request, one response.
    pub const FETCH_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
}

/// Envoy's packages.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
}

/// Google's packages, as far as Envoy's refer to them.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// Istio's packages.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
pub mod istio {
    pub mod v1 {
        pub mod auth {
            tonic::include_proto!("istio.v1.auth");
        }
    }
}

/// The Container Storage Interface.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
pub mod csi {
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// Kubelet's way to make a plugin known.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}
