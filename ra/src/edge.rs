//! Answers that are made before a request reaches the service, brought into the RA's own form.
//!
//! tonic answers a message that is too large, or that is no such message, by itself: with codes of its own choice and
//! texts that describe our decoder. Here they become the code and the fixed text of their step. Answers of the service
//! carry a request id and pass unchanged.

use http::{HeaderValue, Response};
use tonic::Code;

use crate::refusal::text;
use crate::service::REQUEST_ID;

/// Rewrites an answer that the service did not make.
pub fn uniform<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    if headers.contains_key(REQUEST_ID) {
        return response;
    }
    // Answers that end with their headers: the only kind that is made without the service.
    let Some(status) = headers.get(GRPC_STATUS) else {
        return response;
    };
    let code = match Code::from_bytes(status.as_bytes()) {
        // What tonic says of a message above the limit.
        Code::OutOfRange => Code::ResourceExhausted,
        // What it says of bytes that are no such message.
        Code::Internal => Code::InvalidArgument,
        // A deadline that passed while the message was still coming.
        Code::Cancelled => Code::DeadlineExceeded,
        _ => return response,
    };
    headers.insert(GRPC_STATUS, HeaderValue::from(code as i32));
    // Percent-encoded on the wire.
    if let Ok(message) = HeaderValue::try_from(text(code).replace(' ', "%20")) {
        headers.insert(GRPC_MESSAGE, message);
    }
    tracing::warn!(?code, "request refused before it could be read");
    response
}

const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn answer(code: i32, ours: bool) -> Response<()> {
        let mut response = Response::new(());
        response.headers_mut().insert(GRPC_STATUS, code.into());
        if ours {
            response.headers_mut().insert(REQUEST_ID, HeaderValue::from_static("1"));
        }
        uniform(response)
    }

    #[test_case(11, false, "8"; "too large")]
    #[test_case(13, false, "3"; "no message")]
    #[test_case(1, false, "4"; "too slow")]
    #[test_case(12, false, "12"; "an unknown method")]
    #[test_case(13, true, "13"; "an answer of the service")]
    fn codes_are_of_one_table(code: i32, ours: bool, expected: &str) {
        assert_eq!(answer(code, ours).headers()[GRPC_STATUS], expected);
    }
}
