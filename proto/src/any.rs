//! `google.protobuf.Any`, as a message of our own.
//!
//! Two reasons against the published one: its `Debug` prints the value, and in SDS the value is a
//! private key; and it owns a `Vec`, whereas one encoded secret here is shared by every stream.

use bytes::Bytes;

/// A message in encoded form and the URL of its type. `Debug` prints the length of the value only.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct Any {
    /// Which message `value` is, for example [`SECRET_TYPE_URL`](crate::SECRET_TYPE_URL).
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}
