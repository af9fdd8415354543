//! Requests of a workload that wants more than its own: the caller learns a code and its one text, the log the whole reason.
//!
//! With a real token of a real pod, which is good: so whatever is refused is refused for what is asked. Tokens that are not
//! good are `authn`'s, other people's pods `impersonation`'s, other clusters `clusters`'.

use anyhow::ensure;
use ensign_pki::{KeyType, PrivateKey, csr};
use ensign_testbed::cluster::{Cluster, TokenOf};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tonic::Code;

use crate::authority::{Ask, Authority, REVIEWS, id};

type Result<T = ()> = anyhow::Result<T>;

const RSA_1024: &str = include_str!("../../pki/testdata/openssl-rsa-1024.csr.pem");

/// A CSR for an identity, with more in it.
fn csr_with(id: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)?];
    change(&mut params);
    let csr = params.serialize_request(&KeyPair::generate()?)?;
    Ok(csr.pem()?)
}

fn uri(id: &str) -> Result<SanType> {
    Ok(SanType::URI(id.try_into()?))
}

/// A right CSR with its bytes changed.
fn csr_changed(id: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<String> {
    let csr = csr::build(&PrivateKey::generate(KeyType::P256)?, &id.parse()?)?;
    let mut der = csr.der().to_vec();
    change(&mut der);
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    Ok(format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"
    ))
}

#[tokio::test]
async fn who_asks_for_the_signer_of_others_learns_nothing_and_the_log_says_all() -> Result {
    let bed = Cluster::shared().await?;
    let foo = bed.namespace("foo").await?;
    bed.service_account(&foo, "sleep").await?;
    let pod = bed.pod(&foo, "sleep-0", "sleep", "node-1").await?;
    let token = bed.token(&TokenOf::new(&foo, "sleep").pod(&pod)).await?;
    let rules = [(foo.as_str(), &["foo"][..], "foo"), ("bar", &["bar"], "bar")];
    let authority = Authority::start(&bed, REVIEWS, &rules, &[]).await?;
    let ask = Ask::own(&foo, "sleep", &token);
    assert_eq!(authority.granted(&ask).await?.signer, "foo");

    let mut texts = Vec::new();
    // One that exists and one that does not: who asks cannot tell which is which.
    for signer in ["bar", "nobody"] {
        let asked = ask.clone().of_signer(signer);
        let refused = authority
            .refuses(&asked, Code::PermissionDenied, "signer_not_allowed")
            .await?;
        let detail = &refused.detail;
        ensure!(
            detail.contains(signer) && detail.contains(&foo),
            "the log says {detail}"
        );
        texts.push(refused.text);
    }
    assert_eq!(texts, ["the caller may not have this certificate"; 2]);
    authority.finish().await?;
    bed.finish().await
}

/// What each is, the CSR, and with what it is refused.
type Wrong = (&'static str, String, Code, &'static str);

fn wrong_csrs(own: &str) -> Result<Vec<Wrong>> {
    let other = id("bar", "httpbin");
    let name = |san: SanType| csr_with(own, |params| params.subject_alt_names.push(san));
    let (csr, identity) = (Code::InvalidArgument, Code::PermissionDenied);
    Ok(vec![
        (
            "another's identity",
            csr_with(&other, |_| {})?,
            identity,
            "identity_mismatch",
        ),
        (
            "another trust domain",
            csr_with(&own.replace("cluster.local", "evil.example"), |_| {})?,
            identity,
            "identity_mismatch",
        ),
        ("two identities", name(uri(&other)?)?, csr, "san_several_uris"),
        (
            "a host's name",
            name(SanType::DnsName("istiod.istio-system.svc".try_into()?))?,
            csr,
            "san_other_name",
        ),
        (
            "an address",
            name(SanType::IpAddress("10.0.0.1".parse()?))?,
            csr,
            "san_other_name",
        ),
        (
            "a mail address",
            name(SanType::Rfc822Name("root@example.com".try_into()?))?,
            csr,
            "san_other_name",
        ),
        (
            "a host's name alone",
            csr_with(own, |params| {
                params.subject_alt_names =
                    vec![SanType::DnsName("istiod.istio-system.svc".try_into().expect("a name"))];
            })?,
            csr,
            "san_other_name",
        ),
        (
            "a common name",
            csr_with(own, |params| {
                params.distinguished_name.push(DnType::CommonName, "istiod");
            })?,
            csr,
            "subject",
        ),
        (
            "a CA",
            csr_with(own, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))?,
            csr,
            "extension",
        ),
        (
            "a use of the key",
            csr_with(own, |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign])?,
            csr,
            "extension",
        ),
        (
            "a purpose",
            csr_with(own, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            })?,
            csr,
            "extension",
        ),
        (
            "an extension that nobody knows",
            csr_with(own, |params| {
                let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                params.custom_extensions.push(unknown);
            })?,
            csr,
            "extension",
        ),
        ("RSA with 1024 bits", RSA_1024.to_owned(), csr, "rsa_key_size"),
        (
            "a signature that does not fit",
            csr_changed(own, |der| *der.last_mut().expect("bytes") ^= 1)?,
            csr,
            "signature",
        ),
        ("bytes after it", csr_changed(own, |der| der.push(0))?, csr, "encoding"),
        ("no CSR", "x".repeat(100), csr, "armour"),
    ])
}

#[tokio::test]
async fn a_csr_with_anything_but_the_callers_own_identity_is_refused() -> Result {
    let bed = Cluster::shared().await?;
    let foo = bed.namespace("foo").await?;
    bed.service_account(&foo, "sleep").await?;
    let pod = bed.pod(&foo, "sleep-0", "sleep", "node-1").await?;
    let token = bed.token(&TokenOf::new(&foo, "sleep").pod(&pod)).await?;
    let rules = [("*", &["foo"][..], "foo")];
    let authority = Authority::start(&bed, REVIEWS, &rules, &[]).await?;
    let ask = Ask::own(&foo, "sleep", &token);
    authority.granted(&ask).await?;

    for (what, text, code, reason) in wrong_csrs(&id(&foo, "sleep"))? {
        let refused = authority.refuses_csr(&ask, text).await?;
        let seen = (refused.code, refused.reason.as_str());
        ensure!(
            seen == (code, reason),
            "{what}: {refused:?}, expected {code:?} {reason}"
        );
        let told = match code {
            Code::InvalidArgument => "the request is not acceptable",
            _ => "the caller may not have this certificate",
        };
        assert_eq!(refused.text, told, "{what}");
    }
    // It is turned away before it is read, and so before it has an id.
    let refused = authority.refuses_unread(&ask, "x".repeat(1024 * 1024)).await?;
    assert_eq!(refused, Code::ResourceExhausted);
    authority.granted(&ask).await?;
    authority.finish().await?;
    bed.finish().await
}
