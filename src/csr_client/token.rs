//! Bearer tokens: where they come from and how they are kept from view.
//!
//! A [`Token`] is zeroized when dropped and prints as `[redacted]`. [`FileToken`] reads its file again each time, since
//! kubelet replaces a projected token long before it expires. No error quotes what a file held.

use std::fmt;
use std::path::PathBuf;

use futures::future::BoxFuture;
use rustix::fs::OFlags;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// A longer file is not a token. Kubernetes tokens are about 1 kB.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Opening a pipe would wait for its writer, on a thread that all file access of the agent needs.
const NO_WAITING: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Where a workload's bearer token comes from.
pub trait TokenSource: fmt::Debug + Send + Sync {
    /// The token as it is now.
    fn read(&self) -> BoxFuture<'_, Result<Token, TokenError>>;
}

/// A bearer token. Not `Clone`, so that its copies can be counted.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes a token's text. White space around it is dropped.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotAToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The token itself, for the request header only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("the token is empty: expected a JSON web token, write one there")]
    Empty,
    /// What is there cannot go into a header.
    #[error("the token holds white space or bytes that are not printable ASCII: expected one JSON web token")]
    NotAToken,
    /// It is far too long.
    #[error("the token file {path} holds more than 65536 bytes: expected one JSON web token")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A source of another kind has none.
    #[error("no token: {0}")]
    Unavailable(String),
}

/// A token in a file, read again each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileToken {
    path: PathBuf,
}

impl FileToken {
    /// The token in this file. Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn read_file(&self) -> Result<Token, TokenError> {
        let failed = |source| TokenError::Read {
            path: self.path.clone(),
            source,
        };
        let file = tokio::fs::File::options()
            .read(true)
            .custom_flags(NO_WAITING)
            .open(&self.path)
            .await
            .map_err(failed)?;
        // Reserved in one piece: a growing buffer would leave copies of the token behind.
        let mut text = Zeroizing::new(String::with_capacity(8 * 1024));
        file.take(MAX_TOKEN_BYTES + 1)
            .read_to_string(&mut text)
            .await
            .map_err(failed)?;
        if text.len() as u64 > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong {
                path: self.path.clone(),
            });
        }
        Token::new(&text)
    }
}

impl TokenSource for FileToken {
    fn read(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.read_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_show_in_debug() {
        let token = Token::new(" eyJhbGciOi \n").unwrap();
        assert_eq!(token.expose(), "eyJhbGciOi");
        assert!(!format!("{token:?}").contains("eyJ"));
    }

    #[test]
    fn what_cannot_be_a_header_is_no_token() {
        assert!(matches!(Token::new("a\r\nx: y"), Err(TokenError::NotAToken)));
        assert!(matches!(Token::new(" \n"), Err(TokenError::Empty)));
    }

    #[tokio::test]
    async fn the_file_is_read_again_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = FileToken::new(&path);
        assert!(matches!(source.read().await, Err(TokenError::Read { .. })));
        for text in ["one", "two"] {
            tokio::fs::write(&path, text).await.unwrap();
            assert_eq!(source.read().await.unwrap().expose(), text);
        }
        tokio::fs::write(&path, "x".repeat(70_000)).await.unwrap();
        assert!(matches!(source.read().await, Err(TokenError::TooLong { .. })));
    }

    #[tokio::test]
    async fn a_pipe_without_a_writer_is_empty_and_holds_up_nothing() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(matches!(FileToken::new(&path).read().await, Err(TokenError::Empty)));
    }
}
