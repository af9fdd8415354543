//! Deleting, with the patience that the end of an object needs.
//!
//! A removal is tried a bounded number of times and answers with how it ended; what is left is the janitor's. An object
//! that is gone, or whose name another object has by now, is removed. At most so many removals are under way at once,
//! since a throttling server is not helped by more.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::metrics::{ObjectMetrics, Removal};
use super::pushback;
use crate::kubernetes::ApiError;

/// Deletes objects of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Remover {
    tasks: TaskTracker,
    metrics: ObjectMetrics,
    places: Arc<Semaphore>,
}

// === impl Remover ===

impl Remover {
    pub(crate) fn new(tasks: TaskTracker, metrics: ObjectMetrics) -> Self {
        Self {
            tasks,
            metrics,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Runs a removal in the background.
    pub(crate) fn spawn(&self, removal: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(removal);
    }

    /// Removes an object that is of no use to anybody any more.
    pub(crate) async fn remove<F>(&self, rbac: (&str, &str), name: &str, delete: impl Fn() -> F) -> Removal
    where
        F: Future<Output = Result<(), ApiError>>,
    {
        let removal = self.until_gone(rbac, name, delete).await;
        self.metrics.removal(removal);
        removal
    }

    /// Removes an object that should not be there any more.
    pub(crate) async fn sweep<F>(&self, rbac: (&str, &str), name: &str, delete: impl Fn() -> F) -> Removal
    where
        F: Future<Output = Result<(), ApiError>>,
    {
        let removal = match self.until_gone(rbac, name, delete).await {
            Removal::Deleted => Removal::Swept,
            other => other,
        };
        self.metrics.removal(removal);
        removal
    }

    async fn until_gone<F>(&self, rbac: (&str, &str), name: &str, delete: impl Fn() -> F) -> Removal
    where
        F: Future<Output = Result<(), ApiError>>,
    {
        // Closed never.
        let _place = self.places.acquire().await;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(ATTEMPTS - 1)
            .with_jitter()
            .build();
        loop {
            let error = match delete().await {
                Ok(()) => return Removal::Deleted,
                Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => return Removal::Gone,
                Err(error) => error,
            };
            let pause = match &error {
                ApiError::Throttled { retry_after, .. } => {
                    let asked = (*retry_after).min(pushback::LONGEST);
                    pauses.next().map(|pause| pause + asked)
                }
                ApiError::Away(_) | ApiError::Unauthorized(_) => pauses.next(),
                ApiError::Forbidden(_)
                | ApiError::NotFound(_)
                | ApiError::AlreadyExists(_)
                | ApiError::Conflict(_)
                | ApiError::Invalid(_)
                | ApiError::Other { .. } => None,
            };
            let Some(pause) = pause else {
                say_failed(rbac, name, &error);
                return Removal::Failed;
            };
            sleep(pause).await;
        }
    }
}

fn say_failed((group, resource): (&str, &str), name: &str, error: &ApiError) {
    if matches!(error, ApiError::Forbidden(_)) {
        tracing::error!(
            object = name,
            %error,
            missing_rule = %format_args!("apiGroups: [{group}], resources: [{resource}], verbs: [delete]"),
            "may not delete a request"
        );
    } else {
        tracing::warn!(object = name, %error, "could not delete a request, leaving it to the janitor");
    }
}

/// Enough for a server that restarts; later the janitor comes by.
const ATTEMPTS: usize = 8;
/// Removals under way at once.
const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use test_case::test_case;

    use super::*;

    fn throttled() -> ApiError {
        ApiError::Throttled {
            retry_after: Duration::from_secs(1),
            message: "429".to_owned(),
        }
    }

    // The answers of the server, the last of which repeats.
    #[test_case(vec![Ok(())], Removal::Deleted, 1; "at once")]
    #[test_case(vec![Err(ApiError::NotFound(String::new()))], Removal::Gone, 1; "somebody was faster")]
    #[test_case(vec![Err(ApiError::Conflict(String::new()))], Removal::Gone, 1; "the name is another object's")]
    #[test_case(vec![Err(throttled()), Err(ApiError::Away(String::new())), Ok(())], Removal::Deleted, 3; "after troubles")]
    #[test_case(vec![Err(ApiError::Away(String::new()))], Removal::Failed, 8; "never")]
    #[test_case(vec![Err(ApiError::Forbidden(String::new()))], Removal::Failed, 1; "may not")]
    #[tokio::test(start_paused = true)]
    async fn a_removal_ends(answers: Vec<Result<(), ApiError>>, expected: Removal, attempts: usize) {
        let remover = Remover::new(TaskTracker::new(), ObjectMetrics::default());
        let asked = AtomicUsize::new(0);
        let delete = || {
            let turn = asked.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
            let answer = answers[turn].clone();
            async move { answer }
        };
        assert_eq!(remover.remove(("g", "r"), "x", delete).await, expected);
        assert_eq!(asked.load(Ordering::Relaxed), attempts);
    }
}
