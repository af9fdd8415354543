//! Reads the two facts that we use of Envoy's node and steps over the rest.
//!
//! A real node is about 61 KB, nearly all of it a list of 500 extensions, and comes with the first
//! request of every stream. It is walked field by field: nothing is allocated but the two results, and
//! the depth is fixed by this code, not by the sender. A malformed node is an error, never a panic.
//! Last one wins where a field or key is repeated, as in every protobuf reader. What a node says is a
//! claim: who the caller is comes from elsewhere.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Metadata key under which a workload names the signer that it wishes for.
pub const CERT_SIGNER: &str = "CERT_SIGNER";

/// Longest `id` that is kept. Istio's are `sidecar~<ip>~<pod>.<namespace>~<domain>`: at most some 400 bytes.
const LONGEST_ID: usize = 1024;

/// Longest signer name that is kept: a DNS subdomain.
const LONGEST_SIGNER: usize = 253;

/// What we use of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `node.id`, for logs. Empty if absent.
    pub id: String,
    /// `node.metadata.CERT_SIGNER`. `None` if absent or empty.
    pub cert_signer: Option<String>,
}

/// Why a node could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The bytes are not a `Node` message.
    #[error("the request's node is not a valid envoy.config.core.v3.Node message")]
    Malformed(#[from] prost::DecodeError),
    /// A field promises more bytes than there are, or is not of the type that it has in `Node`.
    #[error("field {tag} in the request's node is cut short or is not of its type in envoy.config.core.v3.Node")]
    Field {
        /// Its number, in `Node` or in the struct below `metadata`.
        tag: u32,
    },
    /// A text field is not UTF-8.
    #[error("{field} in the request's node is not valid UTF-8")]
    NotText {
        /// The field.
        field: &'static str,
    },
    /// A text field is longer than anything that Istio writes.
    #[error("{field} in the request's node has {length} bytes, more than the limit of {limit}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// What was sent.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// `CERT_SIGNER` is a number, a list or the like.
    #[error("metadata CERT_SIGNER in the request's node is not a string; write it in quotes in proxyMetadata")]
    SignerKind,
}

/// Reads what we use of an encoded `Node`. Empty input (no node sent) yields the default.
pub fn read(node: &[u8]) -> Result<NodeFacts, NodeError> {
    let mut facts = NodeFacts::default();
    each_field(node, |tag, payload| {
        match tag {
            node_field::ID => facts.id = text("id", required(tag, payload)?, LONGEST_ID)?,
            node_field::METADATA => {
                // A repeated message field is merged: a second struct without the key leaves the first one's value.
                if let Some(signer) = signer_of_struct(required(tag, payload)?)? {
                    facts.cert_signer = Some(signer).filter(|name| !name.is_empty());
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(facts)
}

/// Field numbers of `envoy.config.core.v3.Node`.
mod node_field {
    pub(super) const ID: u32 = 1;
    pub(super) const METADATA: u32 = 3;
}

/// Field numbers of `google.protobuf.Struct`, its map entries, and `Value`.
mod struct_field {
    pub(super) const FIELDS: u32 = 1;
    pub(super) const KEY: u32 = 1;
    pub(super) const VALUE: u32 = 2;
    pub(super) const STRING_VALUE: u32 = 3;
    /// `Value.kind` has the numbers 1 to 6.
    pub(super) const LAST_KIND: u32 = 6;
}

fn signer_of_struct(metadata: &[u8]) -> Result<Option<String>, NodeError> {
    let mut signer = None;
    each_field(metadata, |tag, payload| {
        if tag == struct_field::FIELDS
            && let Some(value) = signer_of_entry(required(tag, payload)?)?
        {
            signer = Some(string_of_value(value)?);
        }
        Ok(())
    })?;
    Ok(signer)
}

/// The encoded value of a map entry if its key is `CERT_SIGNER`.
fn signer_of_entry(entry: &[u8]) -> Result<Option<&[u8]>, NodeError> {
    let (mut key, mut value) = (&[][..], &[][..]);
    each_field(entry, |tag, payload| {
        match tag {
            struct_field::KEY => key = required(tag, payload)?,
            struct_field::VALUE => value = required(tag, payload)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key == CERT_SIGNER.as_bytes()).then_some(value))
}

fn string_of_value(value: &[u8]) -> Result<String, NodeError> {
    let mut string = None;
    each_field(value, |tag, payload| {
        if tag == struct_field::STRING_VALUE {
            string = Some(text("metadata CERT_SIGNER", required(tag, payload)?, LONGEST_SIGNER)?);
        } else if tag <= struct_field::LAST_KIND {
            string = None;
        }
        Ok(())
    })?;
    string.ok_or(NodeError::SignerKind)
}

/// Calls `visit` with each field's number and, for a length-delimited field, its content.
fn each_field<'a>(
    mut rest: &'a [u8],
    mut visit: impl FnMut(u32, Option<&'a [u8]>) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut rest)?;
            let content = usize::try_from(length)
                .ok()
                .and_then(|length| rest.split_at_checked(length));
            let Some((content, after)) = content else {
                return Err(NodeError::Field { tag });
            };
            rest = after;
            visit(tag, Some(content))?;
        } else {
            // The context bounds the depth of nested groups.
            skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
            visit(tag, None)?;
        }
    }
    Ok(())
}

/// The content of a field that must be length-delimited.
fn required(tag: u32, payload: Option<&[u8]>) -> Result<&[u8], NodeError> {
    payload.ok_or(NodeError::Field { tag })
}

fn text(field: &'static str, bytes: &[u8], limit: usize) -> Result<String, NodeError> {
    if bytes.len() > limit {
        return Err(NodeError::TooLong {
            field,
            length: bytes.len(),
            limit,
        });
    }
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| NodeError::NotText { field })
}

#[cfg(test)]
mod tests;
