//! What can be told of a token without any key: whether it is a JWT at all, and when it says that it ends.
//!
//! Costs no request and no cryptography, so it stands before both. Nothing that is read here is believed: an end that
//! lies in the past only spares a question whose answer is known, and one in the future only shortens what is kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::TokenError;

/// The three parts of a JWT in compact form (RFC 7515, 3.1), still encoded.
pub(super) struct Parts<'a> {
    /// Header and payload with the dot between them: what the signature is over.
    pub(super) signed: &'a str,
    pub(super) header: &'a str,
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
}

#[derive(Deserialize)]
struct End {
    #[serde(default)]
    exp: Option<f64>,
}

/// Splits at the dots; refuses what is too long or has another number of parts.
pub(super) fn split(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Length(token.len()));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form("it has no dots"))?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Form("it has one dot"))?;
    if payload.contains('.') {
        return Err(TokenError::Form("it has more than two dots"));
    }
    Ok(Parts {
        signed,
        header,
        payload,
        signature,
    })
}

pub(super) fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Form("a part is no base64url"))
}

/// When a token says that it ends, if it says so, after a look at its form alone.
pub(in crate::authn) fn claimed_end(token: &str) -> Result<Option<SystemTime>, TokenError> {
    let parts = split(token)?;
    decode(parts.header)?;
    if decode(parts.signature)?.is_empty() {
        return Err(TokenError::Form("it has no signature"));
    }
    let payload = decode(parts.payload)?;
    // serde reads a list as an object too.
    if payload.first() != Some(&b'{') {
        return Err(TokenError::Form("its claims are no JSON object"));
    }
    let payload: End = serde_json::from_slice(&payload)
        .map_err(|_| TokenError::Form("its claims are no JSON object, or exp is no number"))?;
    Ok(payload.exp.map(|seconds| {
        let since = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        UNIX_EPOCH.checked_add(since).unwrap_or_else(far_away)
    }))
}

/// An end beyond what a clock can say: no end that could shorten anything.
fn far_away() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 2)
}

/// A pod's token has about 1.2 kB (RS256); a cluster's largest stay far below.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn token(payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{}"), part(payload), part("signature"))
    }

    #[test_case(r#"{"exp":1800000000}"#, Some(1_800_000_000); "seconds")]
    #[test_case(r#"{"exp":1800000000.9}"#, Some(1_800_000_000); "a fraction")]
    #[test_case(r#"{"exp":-5}"#, Some(0); "before all times")]
    #[test_case(r#"{"exp":1e300}"#, Some(8_589_934_590); "beyond all times")]
    #[test_case("{}", None; "no end")]
    fn the_end_is_read_without_a_key(payload: &str, seconds: Option<u64>) {
        let end = claimed_end(&token(payload)).unwrap();
        let seen = end.map(|end| end.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seen, seconds);
    }

    #[test_case("opaque"; "no JWT")]
    #[test_case("a.b"; "two parts")]
    #[test_case("a.b.c.d"; "four parts")]
    #[test_case("e30.e30."; "no signature")]
    #[test_case("e30.e30.a="; "padding")]
    #[test_case("e30.e30.a+b/"; "the other alphabet")]
    #[test_case("e30.W10.YQ"; "claims that are a list")]
    #[test_case("e30.eyJleHAiOiJ4In0.YQ"; "an end that is text")]
    #[test_case(&"a".repeat(MAX_TOKEN_BYTES + 1); "too long")]
    fn what_is_no_jwt_costs_no_request(token: &str) {
        claimed_end(token).unwrap_err();
    }
}
