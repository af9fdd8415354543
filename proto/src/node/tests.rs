//! `read` against nodes that prost encodes, against hostile bytes, and against prost's own reading.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::{CERT_SIGNER, LONGEST_ID, LONGEST_SIGNER, NodeError, NodeFacts, read};
use crate::envoy::config::core::v3::{Extension, Node};

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn node_with(metadata: Vec<(&str, Kind)>) -> Vec<u8> {
    let fields: BTreeMap<_, _> = metadata
        .into_iter()
        .map(|(key, kind)| (key.to_owned(), value(kind)))
        .collect();
    Node {
        id: "sidecar~10.0.0.1~a.b~c".into(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
    .encode_to_vec()
}

fn signer(node: &[u8]) -> Option<String> {
    read(node).unwrap().cert_signer
}

#[test]
fn reads_id_and_signer_among_everything_else() {
    let extension = |n| Extension {
        name: format!("envoy.filters.{n}"),
        category: "c".repeat(90),
        ..Extension::default()
    };
    let fields = BTreeMap::from([
        (CERT_SIGNER.to_owned(), value(Kind::StringValue("foo".into()))),
        ("LABELS".to_owned(), value(Kind::StructValue(Struct::default()))),
        ("PORTS".to_owned(), value(Kind::ListValue(ListValue::default()))),
    ]);
    let node = Node {
        id: "sidecar~10.0.0.1~a.b~c".into(),
        cluster: "a.b".into(),
        metadata: Some(Struct { fields }),
        user_agent_name: "envoy".into(),
        extensions: (0..516).map(extension).collect(),
    };
    let facts = read(&node.encode_to_vec()).unwrap();
    assert_eq!(
        facts,
        NodeFacts {
            id: node.id,
            cert_signer: Some("foo".into())
        }
    );
}

#[test]
fn nothing_sent_is_nothing_claimed() {
    assert_eq!(read(&[]).unwrap(), NodeFacts::default());
    assert_eq!(signer(&node_with(vec![])), None);
    assert_eq!(
        signer(&node_with(vec![("CERT_SIGNER_X", Kind::StringValue("foo".into()))])),
        None
    );
}

#[test]
fn an_empty_signer_is_none() {
    assert_eq!(
        signer(&node_with(vec![(CERT_SIGNER, Kind::StringValue(String::new()))])),
        None
    );
}

#[test]
fn a_signer_that_is_no_string_is_refused() {
    for kind in [
        Kind::NumberValue(5.0),
        Kind::BoolValue(true),
        Kind::NullValue(0),
        Kind::StructValue(Struct::default()),
    ] {
        let error = read(&node_with(vec![(CERT_SIGNER, kind)])).unwrap_err();
        assert!(matches!(error, NodeError::SignerKind), "{error}");
    }
}

#[test]
fn the_last_of_repeated_keys_wins_and_structs_merge() {
    let foo = node_with(vec![(CERT_SIGNER, Kind::StringValue("foo".into()))]);
    let bar = node_with(vec![(CERT_SIGNER, Kind::StringValue("bar".into()))]);
    let other = node_with(vec![("NAMESPACE", Kind::StringValue("ns".into()))]);
    let none = node_with(vec![(CERT_SIGNER, Kind::StringValue(String::new()))]);
    assert_eq!(signer(&[foo.clone(), bar.clone()].concat()).as_deref(), Some("bar"));
    assert_eq!(signer(&[bar.clone(), other].concat()).as_deref(), Some("bar"));
    assert_eq!(signer(&[foo, bar, none].concat()), None);
}

#[test]
fn long_text_is_refused() {
    let long_id = Node {
        id: "x".repeat(LONGEST_ID + 1),
        ..Node::default()
    }
    .encode_to_vec();
    assert!(matches!(read(&long_id), Err(NodeError::TooLong { field: "id", .. })));
    let long_signer = node_with(vec![(CERT_SIGNER, Kind::StringValue("x".repeat(LONGEST_SIGNER + 1)))]);
    assert!(matches!(
        read(&long_signer),
        Err(NodeError::TooLong {
            field: "metadata CERT_SIGNER",
            ..
        })
    ));
}

#[test]
fn malformed_bytes_are_errors() {
    let node = node_with(vec![(CERT_SIGNER, Kind::StringValue("foo".into()))]);
    for length in 1..node.len() {
        // Any cut within the metadata leaves a length without its content. The id alone is a whole message.
        let whole = 2 + usize::from(node[1]);
        assert_eq!(read(&node[..length]).is_ok(), length == whole, "cut at {length}");
    }
    assert!(matches!(
        read(&[0x0a, 0x02, 0xff, 0xfe]),
        Err(NodeError::NotText { field: "id" })
    ));
    assert!(
        matches!(read(&[0x08, 0x01]), Err(NodeError::Field { tag: 1 })),
        "id as a number"
    );
    assert!(
        read(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err(),
        "length 2^64-1"
    );
    assert!(read(&[0x00]).is_err(), "field number 0");
}

#[test]
fn deeply_nested_groups_neither_recurse_without_bound_nor_pass() {
    assert!(read(&vec![0x5b; 100_000]).is_err());
}

#[test]
fn deeply_nested_metadata_costs_nothing() {
    let mut inner = value(Kind::NullValue(0));
    for _ in 0..90 {
        inner = value(Kind::ListValue(ListValue { values: vec![inner] }));
    }
    let deep = Kind::ListValue(ListValue { values: vec![inner] });
    let node = node_with(vec![("DEEP", deep), (CERT_SIGNER, Kind::StringValue("foo".into()))]);
    assert_eq!(signer(&node).as_deref(), Some("foo"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }

    /// A byte changed anywhere: what prost refuses or reads, we refuse or read alike, within our limits.
    #[test]
    fn agrees_with_prost_on_damaged_nodes(at in 0_usize..80, byte in any::<u8>()) {
        let mut node = node_with(vec![(CERT_SIGNER, Kind::StringValue("foo".into())), ("N", Kind::StringValue("n".into()))]);
        let at = at % node.len();
        node[at] = byte;
        if let (Ok(ours), Ok(theirs)) = (read(&node), Node::decode(&*node)) {
            prop_assert_eq!(ours.id, theirs.id);
            let signer = theirs.metadata.and_then(|metadata| metadata.fields.get(CERT_SIGNER).cloned());
            if let Some(Value { kind: Some(Kind::StringValue(signer)) }) = signer {
                prop_assert_eq!(ours.cert_signer, Some(signer).filter(|name| !name.is_empty()));
            } else {
                prop_assert_eq!(ours.cert_signer, None);
            }
        }
    }
}
