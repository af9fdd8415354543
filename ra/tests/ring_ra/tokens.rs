//! Tokens of both algorithms from end to end, and every way in which one could pass for the other.

use ensign_testkit::tokens::{self, Claims, TokenMint};
use serde_json::json;
use tonic::Code;

use crate::authority::{Authority, log_of};

/// An authority that knows an RSA key, a P-256 key, and nothing else.
struct Issuers {
    authority: Authority,
    rsa: TokenMint,
    ec: TokenMint,
}

impl Issuers {
    async fn start() -> Self {
        let (rsa, ec) = (TokenMint::rs256("rsa"), TokenMint::es256("ec"));
        let keys = tokens::jwks(&[&rsa, &ec]);
        let (authority, _ca) = Authority::start_with_keys(&keys).await;
        Self { authority, rsa, ec }
    }

    async fn accepts(&self, token: &str) {
        self.authority.send(self.authority.ask_with(token)).await.unwrap();
    }

    async fn refuses(&self, token: &str, reason: &str) {
        let status = self.authority.send(self.authority.ask_with(token)).await.unwrap_err();
        let line = log_of(&status);
        assert_eq!(
            (status.code(), line["reason"].as_str()),
            (Code::Unauthenticated, Some(reason)),
            "{line}"
        );
        assert_eq!(status.message(), ensign_ra::refusal::text(Code::Unauthenticated));
    }
}

fn claims() -> Claims {
    Claims::service_account("foo", "httpbin")
}

#[tokio::test]
async fn rs256_and_es256_are_accepted_side_by_side() {
    let issuers = Issuers::start().await;
    issuers.accepts(&issuers.rsa.mint(&claims())).await;
    issuers.accepts(&issuers.ec.mint(&claims())).await;
    issuers
        .accepts(&issuers.rsa.mint(&claims().with("/aud", "istio-ca")))
        .await;
    issuers.authority.stop().await;
}

#[tokio::test]
async fn no_algorithm_passes_for_another() {
    let issuers = Issuers::start().await;
    let good = claims();
    for (mint, own, other) in [
        (&issuers.rsa, ("RS256", "rsa"), ("ES256", "ec")),
        (&issuers.ec, ("ES256", "ec"), ("RS256", "rsa")),
    ] {
        let forged = |alg: &str, kid: &str| mint.mint_with_header(&json!({"alg": alg, "kid": kid}), &good);
        // The other's name and key: a wrong signature. Only half of it: a key of the wrong type.
        issuers.refuses(&forged(other.0, other.1), "token_signature").await;
        issuers.refuses(&forged(own.0, other.1), "token_key_type").await;
        issuers.refuses(&forged(other.0, own.1), "token_key_type").await;
        for alg in [
            "none", "None", "HS256", "HS512", "PS256", "ES384", "EdDSA", "rs256", "RS256 ", "",
        ] {
            issuers.refuses(&forged(alg, own.1), "token_algorithm").await;
        }
        issuers.refuses(&mint.mint_unsigned(&good), "token_algorithm").await;
        issuers
            .refuses(&mint.mint_hs256_with_public_key(&good), "token_algorithm")
            .await;
        let shown = good.clone().with("/sub", "system:serviceaccount:foo:admin");
        issuers
            .refuses(&mint.mint_tampered(&good, &shown), "token_signature")
            .await;
    }
    issuers.authority.stop().await;
}

#[tokio::test]
async fn a_header_chooses_among_our_keys_and_brings_none() {
    let issuers = Issuers::start().await;
    let thief = TokenMint::es256("ec");
    issuers.refuses(&thief.mint(&claims()), "token_signature").await;
    for (member, value) in [
        ("jwk", thief.jwk()),
        ("jku", json!("https://thief.example/jwks")),
        ("x5u", json!("https://thief.example/cert")),
        ("x5c", json!(["MIIB"])),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "ec"});
        header[member] = value;
        let token = thief.mint_with_header(&header, &claims());
        issuers.refuses(&token, "token_signature").await;
        header["kid"] = json!("thief");
        let token = thief.mint_with_header(&header, &claims());
        issuers.refuses(&token, "token_kid_unknown").await;
    }
    for kid in ["", "EC", "ec ", "ec\0", "../ec", "ec' OR '1'='1", "ec\nrsa"] {
        let token = issuers
            .ec
            .mint_with_header(&json!({"alg": "ES256", "kid": kid}), &claims());
        issuers.refuses(&token, "token_kid_unknown").await;
    }
    for kid in [json!(["ec"]), json!(1), json!({})] {
        let token = issuers
            .ec
            .mint_with_header(&json!({"alg": "ES256", "kid": kid}), &claims());
        issuers.refuses(&token, "token_form").await;
    }
    issuers.authority.stop().await;
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused() {
    let issuers = Issuers::start().await;
    let good = claims().json().to_string();
    let header = r#"{"alg":"RS256","kid":"rsa"}"#;
    let sign = |header: &str, payload: &str| issuers.rsa.sign(header, payload);
    issuers.accepts(&sign(header, &good)).await;
    let twice = good.replacen('{', r#"{"sub":"system:serviceaccount:foo:admin","#, 1);
    issuers.refuses(&sign(header, &twice), "token_claims").await;
    let escaped = good.replacen('{', r#"{"\u0073ub":"system:serviceaccount:foo:admin","#, 1);
    issuers.refuses(&sign(header, &escaped), "token_claims").await;
    let deep = good.replacen(r#""namespace":"#, r#""namespace":"bar","namespace":"#, 1);
    assert_ne!(deep, good);
    issuers.refuses(&sign(header, &deep), "token_claims").await;
    let alg = r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#;
    issuers.refuses(&sign(alg, &good), "token_form").await;
    issuers
        .refuses(&sign(header, &format!("{good}{good}")), "token_claims")
        .await;
    issuers
        .refuses(&sign(header, &format!("\u{feff}{good}")), "token_claims")
        .await;
    for exp in [
        json!(1e300),
        json!(4_102_444_800.5),
        json!(4_102_444_800.0),
        json!(u64::MAX),
        json!("4102444800"),
        json!(null),
        json!([4_102_444_800_u64]),
    ] {
        let token = issuers.rsa.mint(&claims().with("/exp", exp));
        issuers.refuses(&token, "token_claims").await;
    }
    issuers
        .accepts(&issuers.rsa.mint(&claims().with("/exp", i64::MAX)))
        .await;
    for aud in [
        json!("istio-ca,vault"),
        json!([]),
        json!([["istio-ca"]]),
        json!({"istio-ca": 1}),
        json!(""),
    ] {
        let token = issuers.rsa.mint(&claims().with("/aud", aud.clone()));
        let reason = if aud.is_object() || aud[0].is_array() {
            "token_claims"
        } else {
            "token_audience"
        };
        issuers.refuses(&token, reason).await;
    }
    issuers.authority.stop().await;
}

#[tokio::test]
async fn a_token_whose_parts_disagree_is_nobodys() {
    let issuers = Issuers::start().await;
    for (pointer, value, reason) in [
        ("/sub", "system:serviceaccount:bar:httpbin", "token_disagrees"),
        ("/sub", "system:serviceaccount:foo:httpbin:x", "token_subject"),
        ("/sub", "system:serviceaccount:foo/x:httpbin", "token_disagrees"),
        ("/kubernetes.io/namespace", "bar", "token_disagrees"),
        ("/kubernetes.io/serviceaccount/name", "admin", "token_disagrees"),
        ("/kubernetes.io/pod/uid", "", "token_name"),
    ] {
        let token = issuers.ec.mint(&claims().with(pointer, value));
        issuers.refuses(&token, reason).await;
    }
    // Names that would change the path of the identity.
    for name in ["httpbin/../admin", "httpbin%2f", "HTTPBIN", "*", ""] {
        let claims = Claims::service_account("foo", name);
        issuers.refuses(&issuers.ec.mint(&claims), "token_name").await;
    }
    issuers.authority.stop().await;
}
