//! Which tokens are believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ensign_testkit::tokens::{self, Claims, TokenMint};
use serde_json::{Value, json};
use test_case::test_case;

use super::*;

fn claims() -> Claims {
    Claims::service_account("foo", "httpbin")
}

fn keys_of(issuer: &TokenMint) -> Jwks {
    Jwks::parse(tokens::jwks(&[issuer]).as_bytes()).unwrap()
}

fn reason(token: &str, jwks: &Jwks) -> &'static str {
    verify(token, jwks).unwrap_err().reason()
}

#[test]
fn a_token_of_the_issuer_is_believed() {
    let issuer = TokenMint::es256("a");
    let claims = claims();
    let payload = verify(&issuer.mint(&claims), &keys_of(&issuer)).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), *claims.json());
}

#[test]
fn a_token_of_another_key_of_that_name_is_not() {
    let (issuer, other) = (TokenMint::es256("a"), TokenMint::es256("a"));
    assert_eq!(reason(&other.mint(&claims()), &keys_of(&issuer)), "token_signature");
}

#[test_case(json!({"alg": "ES256", "kid": "b"}), "token_kid_unknown"; "an unknown key")]
#[test_case(json!({"alg": "ES256"}), "token_kid_missing"; "no key named")]
#[test_case(json!({"alg": "none", "kid": "a"}), "token_algorithm"; "no algorithm")]
#[test_case(json!({"alg": "HS256", "kid": "a"}), "token_algorithm"; "a public key as a secret")]
#[test_case(json!({"alg": "ES384", "kid": "a"}), "token_algorithm"; "another curve")]
#[test_case(json!({"alg": "RS256", "kid": "a"}), "token_key_type"; "RSA with an EC key")]
#[test_case(json!({"alg": "ES256", "kid": "a", "crit": ["exp"]}), "token_crit"; "critical members")]
#[test_case(json!({"alg": "ES256", "kid": "a", "crit": null}), "token_crit"; "critical members that are null")]
#[test_case(json!({"alg": "ES256", "kid": "a", "typ": "JWE"}), "token_form"; "another type")]
#[test_case(json!({"kid": "a"}), "token_form"; "no alg")]
#[test_case(json!({"alg": 1, "kid": "a"}), "token_form"; "an alg that is no text")]
#[test_case(json!([]), "token_form"; "a header that is a list")]
fn a_header_says_what_it_must(header: Value, expected: &str) {
    let issuer = TokenMint::es256("a");
    let token = issuer.mint_with_header(&header, &claims());
    assert_eq!(reason(&token, &keys_of(&issuer)), expected);
}

#[test]
fn duplicate_members_of_a_header_are_refused() {
    let issuer = TokenMint::es256("a");
    let token = issuer.sign(r#"{"alg":"ES256","kid":"a","kid":"a"}"#, "{}");
    assert_eq!(reason(&token, &keys_of(&issuer)), "token_form");
}

#[test]
fn a_changed_part_is_noticed() {
    let issuer = TokenMint::es256("a");
    let jwks = keys_of(&issuer);
    let token = issuer.mint(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(json!({"sub": "system:serviceaccount:foo:admin"}).to_string());
    assert_eq!(
        reason(&format!("{}.{other}.{}", parts[0], parts[2]), &jwks),
        "token_signature"
    );
    assert_eq!(reason(&format!("{}.{}.", parts[0], parts[1]), &jwks), "token_signature");
    assert_eq!(reason(&format!("{}.{}", parts[0], parts[1]), &jwks), "token_form");
    assert_eq!(reason(&format!("{token}.{}", parts[2]), &jwks), "token_form");
    assert_eq!(reason(&format!("{token}="), &jwks), "token_form");
    assert_eq!(reason("", &jwks), "token_form");
    assert_eq!(reason(&"a".repeat(MAX_TOKEN_BYTES + 1), &jwks), "token_length");
}

#[test]
fn no_error_holds_the_token() {
    let (issuer, other) = (TokenMint::es256("a"), TokenMint::es256("a"));
    let token = other.mint(&claims());
    let error = verify(&token, &keys_of(&issuer)).unwrap_err();
    for part in token.split('.') {
        assert!(!format!("{error} {error:?}").contains(part));
    }
}
