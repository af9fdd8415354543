//! From the text of one setting to its value, each mistake noted with the setting's names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ensign_daemon::GoDuration;
use ensign_daemon::settings::Checker;
use ensign_pki::KeyType;
use ensign_pki::dns_name::{is_label, is_subdomain};

pub(super) fn path(c: &mut Checker<'_>, id: &str, seen: Option<&str>) -> Option<PathBuf> {
    text(c, id, seen, "a path").map(PathBuf::from)
}

pub(super) fn text(c: &mut Checker<'_>, id: &str, seen: Option<&str>, expected: &str) -> Option<String> {
    match seen {
        Some(text) if !text.is_empty() => Some(text.to_owned()),
        _ => {
            c.missing(id, expected);
            None
        }
    }
}

/// A name as namespaces have it (RFC 1123).
pub(super) fn label(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<String> {
    if is_label(seen) {
        return Some(seen.to_owned());
    }
    c.refuse(id, seen, "a DNS label", "use 1 to 63 of a-z, 0-9 and '-'");
    None
}

/// A name as most objects have it.
pub(super) fn subdomain(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<String> {
    if is_subdomain(seen) {
        return Some(seen.to_owned());
    }
    c.refuse(
        id,
        seen,
        "a DNS name",
        "use labels of a-z, 0-9 and '-' with '.' between them, 253 in all",
    );
    None
}

/// The type of a key from cert-manager's words for it, an algorithm and a size.
pub(super) fn key_type(
    c: &mut Checker<'_>,
    (algorithm_id, algorithm): (&str, &str),
    (size_id, size): (&str, Option<&str>),
) -> Option<KeyType> {
    let known: &[(&str, KeyType)] = match algorithm.to_ascii_uppercase().as_str() {
        "ECDSA" => &[("256", KeyType::P256), ("384", KeyType::P384)],
        "RSA" => &[
            ("2048", KeyType::Rsa2048),
            ("3072", KeyType::Rsa3072),
            ("4096", KeyType::Rsa4096),
        ],
        _ => {
            c.refuse(algorithm_id, algorithm, "ECDSA or RSA", "there is no such algorithm");
            return None;
        }
    };
    let key_type = match size {
        None | Some("" | "0") => known.first().map(|(_, key_type)| *key_type),
        Some(size) => known
            .iter()
            .find(|(bits, _)| *bits == size)
            .map(|(_, key_type)| *key_type),
    };
    let Some(key_type) = key_type else {
        let sizes: Vec<&str> = known.iter().map(|(bits, _)| *bits).collect();
        let expected = format!("one of {} for {algorithm}", sizes.join(", "));
        c.refuse(size_id, size.unwrap_or_default(), &expected, "no such key is made");
        return None;
    };
    Some(key_type)
}

pub(super) fn list(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<Vec<String>> {
    let items: Vec<String> = seen
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect();
    if items.is_empty() {
        c.refuse(id, seen, "at least one entry", "the list is empty");
        return None;
    }
    Some(items)
}

pub(super) fn address(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<SocketAddr> {
    c.parse(id, seen, "an IP address and a port, such as 0.0.0.0:6443 or [::]:6443")
}

pub(super) fn count(c: &mut Checker<'_>, id: &str, seen: &str, least: usize) -> Option<usize> {
    let number: usize = c.parse(id, seen, "a whole number")?;
    if number < least || number > MAX_COUNT {
        c.refuse(id, seen, &format!("{least} to {MAX_COUNT}"), "out of range");
        return None;
    }
    Some(number)
}

pub(super) fn positive(c: &mut Checker<'_>, id: &str, seen: &str) -> Option<Duration> {
    duration(c, id, seen, GoDuration::positive)
}

pub(super) fn duration(
    c: &mut Checker<'_>,
    id: &str,
    seen: &str,
    within: fn(GoDuration) -> Result<Duration, ensign_daemon::go_duration::GoDurationError>,
) -> Option<Duration> {
    let outcome = seen.parse::<GoDuration>().and_then(within);
    c.check(id, seen, "a duration such as 10s, 5m or 24h", outcome)
}

/// Far above any sensible bound, far below what a semaphore can count.
const MAX_COUNT: usize = 1 << 28;
