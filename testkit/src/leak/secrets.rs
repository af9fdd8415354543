//! What is secret, and every form in which a piece of it might be written down.
//!
//! A secret is cut into overlapping pieces, so that sixteen bytes of it in a row are found however they were cut out. Of a
//! key only the scalar counts: the rest of its DER is public.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes of a piece. Nothing random repeats that many by chance.
const PIECE: usize = 12;
const STEP: usize = 4;

/// Named secrets.
#[derive(Debug, Default)]
pub struct Secrets(pub(super) Vec<(String, Vec<u8>)>);

/// A form's name, and a piece of a secret in it.
pub(super) type Form = (&'static str, Vec<u8>);

impl Secrets {
    /// These, too.
    pub fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Name and bytes of each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// A private key in PEM: its scalar, and the characters of the armour that hold it.
    pub fn key(&mut self, name: &str, pem: &str) {
        let (scalar, text) = scalar(pem);
        self.0.push((name.to_owned(), scalar));
        self.0.push((format!("{name} (the PEM text)"), text));
    }

    /// A token: how it begins, and its signature as text and decoded. What stands between are claims, words that are public
    /// (a certificate in base64 holds `cluster.local` too).
    pub fn token(&mut self, name: &str, token: &str) {
        let (claims, signature) = token.rsplit_once('.').expect("a token");
        let header = claims.split('.').next().unwrap_or_default();
        let decoded = URL_SAFE_NO_PAD.decode(signature).expect("a signature");
        self.0
            .push((format!("{name} (its header)"), header.as_bytes().to_vec()));
        self.0
            .push((format!("{name} (its signature)"), signature.as_bytes().to_vec()));
        self.0.push((format!("{name} (its signature, decoded)"), decoded));
    }
}

/// The scalar of an elliptic key in PKCS#8 or SEC1, and its characters in the PEM.
pub fn scalar(pem: &str) -> (Vec<u8>, Vec<u8>) {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(&body).expect("base64");
    // ECPrivateKey begins with its version, then an OCTET STRING of 32 (P-256) or 48 bytes.
    let (at, length) = [32_usize, 48]
        .iter()
        .find_map(|&length| {
            let begin = [2, 1, 1, 4, u8::try_from(length).expect("small")];
            let at = der.windows(5).position(|window| window == begin)?;
            Some((at + 5, length))
        })
        .expect("an elliptic key");
    let text = &body.as_bytes()[(at * 4).div_ceil(3)..(at + length) * 4 / 3];
    (der[at..at + length].to_vec(), text.to_vec())
}

/// The pieces of a secret.
pub(super) fn pieces(secret: &[u8]) -> impl Iterator<Item = &[u8]> {
    assert!(secret.len() >= PIECE, "too short to be searched for");
    secret.windows(PIECE).step_by(STEP)
}

/// Every form of one piece.
pub(super) fn forms(piece: &[u8]) -> Vec<Form> {
    let each = |separator: &str, one: &dyn Fn(u8) -> String| {
        let all: Vec<_> = piece.iter().map(|&byte| one(byte)).collect();
        all.join(separator).into_bytes()
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut forms = vec![
        ("raw", piece.to_vec()),
        ("hex", hex::encode(piece).into_bytes()),
        ("HEX", hex::encode_upper(piece).into_bytes()),
        ("hex with colons", each(":", &|byte| format!("{byte:02x}"))),
        ("HEX with colons", each(":", &|byte| format!("{byte:02X}"))),
        ("hex list", each(",", &|byte| format!("0x{byte:02x}"))),
        ("HEX list", each(",", &|byte| format!("0x{byte:02X}"))),
        ("short hex list", each(",", &|byte| format!("{byte:x}"))),
        ("list", each(",", &|byte| byte.to_string())),
        ("escaped", each("", &|byte| format!("\\x{byte:02x}"))),
        ("ESCAPED", each("", &|byte| format!("\\x{byte:02X}"))),
        ("escaped where needed", piece.escape_ascii().to_string().into_bytes()),
        (
            "escaped as bytes",
            format!("{:?}", bytes::Bytes::copy_from_slice(piece))[2..]
                .trim_end_matches('"')
                .as_bytes()
                .to_vec(),
        ),
        ("octal", each("", &|byte| format!("\\{byte:03o}"))),
        ("text", String::from_utf8_lossy(piece).into_owned().into_bytes()),
        ("percent", each("", &|byte| format!("%{byte:02X}"))),
        ("percent, lower", each("", &|byte| format!("%{byte:02x}"))),
        (
            "percent where needed",
            each("", &|byte| {
                if plain(byte) {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            }),
        ),
    ];
    for text in base64(piece) {
        let percent = text.replace('+', "%2B").replace('/', "%2F");
        forms.push(("base64 in percent", percent.into_bytes()));
        forms.push(("base64url", text.replace('+', "-").replace('/', "_").into_bytes()));
        forms.push(("base64", text.into_bytes()));
    }
    // A lossy text of a binary piece is mostly replacement characters, which are in every such text.
    forms.retain(|(form, text)| *form != "text" || !text.windows(3).any(|window| window == "\u{fffd}".as_bytes()));
    forms.retain(|(_, text)| text.len() >= PIECE);
    forms
}

/// In base64 a piece looks different at each of three offsets; the characters that it shares with neighbours are left out.
fn base64(piece: &[u8]) -> [String; 3] {
    [(0, 0), (1, 2), (2, 3)].map(|(before, shared)| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(piece);
        let text = STANDARD_NO_PAD.encode(&bytes);
        text[shared..bytes.len() * 4 / 3].to_owned()
    })
}
