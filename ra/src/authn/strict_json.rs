//! JSON in which every member of an object occurs once.
//!
//! Parsers disagree about which of two equal names counts (RFC 8259, 4), so two programs can read two identities from
//! one signed token. Here a second one is a mistake, at any depth; depth itself is bounded by serde_json.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads a document and refuses duplicate members, then gives it the form of `T`.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let Unique(value) = serde_json::from_slice(json)?;
    serde_json::from_value(value)
}

struct Unique(Value);

struct UniqueVisitor;

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate members")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let Unique(value) = access.next_value()?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member occurs twice in one object"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(r#"{"a":1,"b":[{"c":null}],"d":"x","e":-1.5,"f":true}"#, true)]
    #[test_case(r#"{"a":1,"a":1}"#, false; "at the top")]
    #[test_case(r#"{"a":{"b":[{"c":1,"c":2}]}}"#, false; "deep inside")]
    #[test_case(r#"{"a":1,"\u0061":2}"#, false; "by escape")]
    #[test_case(r#"{"a":1} x"#, false; "trailing text")]
    #[test_case("", false; "nothing")]
    fn a_member_occurs_once(json: &str, valid: bool) {
        assert_eq!(parse::<Value>(json.as_bytes()).is_ok(), valid);
    }

    #[test]
    fn depth_is_bounded() {
        let json = "[".repeat(100_000);
        assert!(parse::<Value>(json.as_bytes()).is_err());
    }
}
