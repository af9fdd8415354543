//! What happens to a request before it reaches the service, and to answers that were made without it.
//!
//! A message has a bounded time to arrive, so that a peer that sends half of one does not hold its stream for ever.
//! tonic answers a message that is too large, or that is no such message, by itself: with codes of its own choice and
//! texts that describe our decoder. Here they become the code and the fixed text of their step, and are counted and
//! logged. Answers of the service carry a request id and pass unchanged.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::call::REQUEST_ID;
use crate::limits::LimitError;
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// How long a message may take to arrive: a few kilobytes, from somewhere in the cluster.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A body that ends with an error when it takes too long.
struct Patient {
    body: Body,
    patience: Pin<Box<Sleep>>,
}

/// Gives the message of a request [`PATIENCE`] to arrive.
pub fn patient(request: Request<Body>) -> Request<Body> {
    request.map(|body| {
        Body::new(Patient {
            body,
            patience: Box::pin(sleep(PATIENCE)),
        })
    })
}

/// Rewrites an answer that the service did not make.
pub fn uniform<B>(mut response: Response<B>, metrics: &Metrics) -> Response<B> {
    let headers = response.headers_mut();
    if headers.contains_key(REQUEST_ID) {
        return response;
    }
    // Answers that end with their headers: the only kind that is made without the service.
    let Some(status) = headers.get(GRPC_STATUS) else {
        return response;
    };
    let refusal = match Code::from_bytes(status.as_bytes()) {
        // What tonic says of a message above the limit.
        Code::OutOfRange => Refusal::Limit(LimitError::MessageSize),
        // What it says of bytes that are no such message.
        Code::Internal => Refusal::Message,
        // What `Patient` says.
        Code::DeadlineExceeded => Refusal::SlowMessage,
        _ => return response,
    };
    let status = refusal.status();
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code() as i32));
    // Percent-encoded on the wire.
    if let Ok(message) = HeaderValue::try_from(status.message().replace(' ', "%20")) {
        headers.insert(GRPC_MESSAGE, message);
    }
    metrics.refused_unread(&refusal);
    tracing::warn!(code = ?refusal.code(), reason = refusal.reason(), detail = %refusal, "request refused before it could be read");
    response
}

impl http_body::Body for Patient {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.patience.as_mut().poll(context));
        Poll::Ready(Some(Err(Refusal::SlowMessage.status())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

#[cfg(test)]
mod tests {
    use std::future;

    use http_body::Body as _;
    use prometheus_client::registry::Registry;
    use test_case::test_case;

    use super::*;

    fn answer(code: i32, ours: bool) -> (Response<()>, String) {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let mut response = Response::new(());
        response.headers_mut().insert(GRPC_STATUS, code.into());
        if ours {
            response.headers_mut().insert(REQUEST_ID, HeaderValue::from_static("1"));
        }
        let response = uniform(response, &metrics);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        (response, text)
    }

    #[test_case(11, "8", "message_size"; "too large")]
    #[test_case(13, "3", "message"; "no message")]
    #[test_case(4, "4", "slow_message"; "too slow")]
    fn what_the_decoder_refuses_is_one_of_our_refusals(code: i32, expected: &str, reason: &str) {
        let (response, metrics) = answer(code, false);
        assert_eq!(response.headers()[GRPC_STATUS], expected);
        assert!(!response.headers()[GRPC_MESSAGE].is_empty());
        assert!(metrics.contains(&format!("reason=\"{reason}\"}} 1")), "{metrics}");
    }

    #[test_case(12, false; "an unknown method")]
    #[test_case(13, true; "an answer of the service")]
    fn all_else_passes(code: i32, ours: bool) {
        let (response, metrics) = answer(code, ours);
        assert_eq!(response.headers()[GRPC_STATUS], code.to_string().as_str());
        assert!(!metrics.contains("reason="), "{metrics}");
    }

    /// Half a message, then silence.
    struct Half(Option<Bytes>);

    impl http_body::Body for Half {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0
                .take()
                .map_or(Poll::Pending, |half| Poll::Ready(Some(Ok(Frame::data(half)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_end_ends() {
        let half = Half(Some(Bytes::from_static(b"\0\0\0")));
        let mut body = patient(Request::new(Body::new(half))).into_body();
        let mut next = async || future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(next().await.unwrap().unwrap().is_data());
        let began = tokio::time::Instant::now();
        let error = next().await.unwrap().unwrap_err();
        assert_eq!((error.code(), began.elapsed()), (Code::DeadlineExceeded, PATIENCE));
    }
}
