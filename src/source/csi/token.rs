//! The pod's own token, as kubelet brings it with a publish and again before it expires.
//!
//! One [`PodToken`] for all volumes of a pod. It is kept in memory only, wiped when replaced or dropped, and shows in no
//! `Debug`. Expired or missing it says so, with what to look at; the next publish heals that.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use ensign_pki::SharedClock;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::{Zeroize as _, Zeroizing};

use super::refusal::Refusal;
use crate::csr_client::{Token, TokenError, TokenSource};

/// A token as it came.
pub(super) struct Brought {
    text: Zeroizing<String>,
    expires: SystemTime,
}

/// The newest token of one pod, or none yet.
pub(super) struct PodToken {
    clock: SharedClock,
    /// With the number of the token.
    newest: Mutex<Option<(Brought, u64)>>,
}

#[derive(Deserialize)]
struct Raw {
    token: String,
    #[serde(rename = "expirationTimestamp")]
    expires: String,
}

// === impl Brought ===

impl Brought {
    /// Takes this audience's token out of what kubelet wrote; none if there is none for it.
    pub(super) fn read(json: &str, audience: &str) -> Result<Option<Self>, Refusal> {
        // The parser's own text would quote what it read.
        let mut tokens: HashMap<String, Raw> = serde_json::from_str(json).map_err(|_| Refusal::Tokens)?;
        let wanted = tokens.remove(audience);
        for other in tokens.values_mut() {
            other.token.zeroize();
        }
        let Some(Raw { token, expires }) = wanted else {
            return Ok(None);
        };
        let token = Zeroizing::new(token);
        let expires = OffsetDateTime::parse(&expires, &Rfc3339).map_err(|_| Refusal::Tokens)?;
        Token::new(&token).map_err(|_| Refusal::Tokens)?;
        Ok(Some(Self {
            text: token,
            expires: expires.into(),
        }))
    }
}

#[cfg(test)]
impl Brought {
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brought")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

// === impl PodToken ===

impl PodToken {
    /// Without a token yet.
    pub(super) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            newest: Mutex::new(None),
        }
    }

    /// Takes a token up, unless it is the same, or expires sooner and so comes from a slower call.
    pub(super) fn put(&self, brought: Brought) {
        let mut newest = self.newest.lock();
        if let Some((held, _)) = &*newest
            && (held.text == brought.text || held.expires > brought.expires)
        {
            return;
        }
        let number = newest.as_ref().map_or(0, |(_, number)| *number) + 1;
        *newest = Some((brought, number));
    }

    /// Which token this is: another number, another token; 0 without one.
    pub(super) fn number(&self) -> u64 {
        self.newest.lock().as_ref().map_or(0, |(_, number)| *number)
    }
}

impl TokenSource for PodToken {
    fn read(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        let newest = self.newest.lock();
        let outcome = match &*newest {
            None => Err(TokenError::Unavailable(
                "kubelet has not brought this pod's token since the agent started; it does so with its next look at the pod, \
                 in a minute or two"
                    .to_owned(),
            )),
            Some((held, _)) if held.expires <= self.clock.now() => {
                let at = OffsetDateTime::from(held.expires).format(&Rfc3339).unwrap_or_default();
                Err(TokenError::Unavailable(format!(
                    "the pod's token expired at {at} and kubelet has brought no other; look whether kubelet runs and reaches \
                     the API server"
                )))
            }
            Some((held, _)) => Token::new(&held.text),
        };
        Box::pin(async { outcome })
    }
}

impl fmt::Debug for PodToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodToken([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ensign_pki::Clock;

    use super::*;

    #[derive(Debug)]
    struct At(Mutex<SystemTime>);

    impl Clock for At {
        fn now(&self) -> SystemTime {
            *self.0.lock()
        }
    }

    fn json(audience: &str, token: &str, expires: &str) -> String {
        format!(
            r#"{{"{audience}":{{"token":"{token}","expirationTimestamp":"{expires}"}},"x":{{"token":"y","expirationTimestamp":"2026-01-01T00:00:00Z"}}}}"#
        )
    }

    fn brought(token: &str, expires: &str) -> Brought {
        Brought::read(&json("istio-ca", token, expires), "istio-ca")
            .unwrap()
            .unwrap()
    }

    #[test]
    fn only_the_audience_counts() {
        let text = json("vault", "t.o.k", "2026-11-26T12:00:00Z");
        assert!(Brought::read(&text, "istio-ca").unwrap().is_none());
        assert!(Brought::read(&text, "vault").unwrap().is_some());
    }

    #[test]
    fn what_is_no_such_json_is_refused_without_a_word_of_it() {
        for text in ["\"planted.tok.en\"", "{\"istio-ca\":\"planted.tok.en\"}", "planted"] {
            let refusal = Brought::read(text, "istio-ca").unwrap_err();
            assert!(!format!("{refusal} {refusal:?}").contains("planted"));
        }
        for (token, expires) in [
            ("planted tok", "2026-11-26T12:00:00Z"),
            ("t.o.k", "tomorrow"),
            ("", "2026-11-26T12:00:00Z"),
        ] {
            assert!(Brought::read(&json("istio-ca", token, expires), "istio-ca").is_err());
        }
    }

    #[tokio::test]
    async fn missing_then_there_then_expired_then_renewed() {
        let start = SystemTime::from(OffsetDateTime::parse("2026-11-26T11:55:00Z", &Rfc3339).unwrap());
        let clock = Arc::new(At(Mutex::new(start)));
        let token = PodToken::new(Arc::clone(&clock) as SharedClock);
        let said = token.read().await.unwrap_err().to_string();
        assert!(said.contains("has not brought"), "{said}");
        assert_eq!(token.number(), 0);
        token.put(brought("a.b.c", "2026-11-26T12:00:00Z"));
        assert_eq!(token.number(), 1);
        token.put(brought("a.b.c", "2026-11-26T12:00:00Z"));
        assert_eq!(token.number(), 1, "the same again");
        assert_eq!(token.read().await.unwrap().expose(), "a.b.c");
        *clock.0.lock() += Duration::from_mins(5);
        let said = token.read().await.unwrap_err().to_string();
        assert!(said.contains("expired at 2026-11-26T12:00:00Z"), "{said}");
        token.put(brought("d.e.f", "2026-11-26T13:00:00Z"));
        assert_eq!(token.number(), 2);
        token.put(brought("o.l.d", "2026-11-26T12:30:00Z"));
        assert_eq!(token.number(), 2, "a slower call");
        assert_eq!(token.read().await.unwrap().expose(), "d.e.f");
        assert!(!format!("{token:?}").contains("d.e.f"));
    }
}
