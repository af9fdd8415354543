//! What the metadata of a call holds of credentials: one bearer token, and the cluster that the caller claims.

use tonic::metadata::MetadataMap;

use super::error::AuthnError;

/// The token of `authorization: Bearer TOKEN`, of which there must be exactly one.
pub(super) fn bearer(metadata: &MetadataMap) -> Result<&str, AuthnError> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next().ok_or(AuthnError::NoToken)?;
    let more = values.count();
    if more > 0 {
        return Err(AuthnError::ManyTokens(more + 1));
    }
    let text = value.to_str().map_err(|_| AuthnError::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthnError::NotBearer)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthnError::NotBearer);
    }
    Ok(token)
}

/// The `clusterid`, if it is there and not empty.
pub(super) fn claimed_cluster(metadata: &MetadataMap) -> Result<Option<String>, AuthnError> {
    let mut values = metadata.get_all("clusterid").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let more = values.count();
    if more > 0 {
        return Err(AuthnError::ManyClusters(more + 1));
    }
    let claimed = value.to_str().unwrap_or("(not ASCII)");
    let bounded: String = claimed.chars().take(MAX_NAME).collect();
    Ok(Some(bounded).filter(|name| !name.is_empty()))
}

/// The key of a Secret, which names a remote cluster, has at most so many characters.
const MAX_NAME: usize = 253;
