//! Work that only the leader does, begun and ended with each of its terms.

use std::future::Future;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Does `work` while `leading` says so, until `stop`. Each term has a token, cancelled at its end; what the work holds is
/// dropped then.
pub async fn while_leading<F, W>(
    mut leading: watch::Receiver<bool>,
    stop: CancellationToken,
    mut work: F,
) -> anyhow::Result<()>
where
    F: FnMut(CancellationToken) -> W,
    W: Future<Output = ()>,
{
    loop {
        let led = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            led = leading.wait_for(|leads| *leads) => led.is_ok(),
        };
        if !led {
            // The election ended before us: the process is stopping.
            stop.cancelled().await;
            return Ok(());
        }
        let term = stop.child_token();
        let elections = tokio::select! {
            () = stop.cancelled() => true,
            () = work(term.clone()) => true,
            lost = leading.wait_for(|leads| !*leads) => lost.is_ok(),
        };
        term.cancel();
        if !elections {
            // Its last word was that we lead, and it counts no more.
            stop.cancelled().await;
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::sleep;
    use tokio_util::task::TaskTracker;

    use super::*;

    /// Counts while it lives.
    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_lives_as_long_as_its_term() {
        let (tell, leading) = watch::channel(false);
        let (stop, tasks, alive) = (
            CancellationToken::new(),
            TaskTracker::new(),
            Arc::new(AtomicUsize::new(0)),
        );
        let count = Arc::clone(&alive);
        tasks.spawn(while_leading(leading, stop.clone(), move |term| {
            count.fetch_add(1, Ordering::SeqCst);
            let alive = Alive(Arc::clone(&count));
            async move {
                let _alive = alive;
                term.cancelled().await;
            }
        }));
        let now = async || {
            sleep(Duration::from_secs(1)).await;
            alive.load(Ordering::SeqCst)
        };
        assert_eq!(now().await, 0);
        tell.send_replace(true);
        assert_eq!(now().await, 1);
        tell.send_replace(false);
        assert_eq!(now().await, 0);
        tell.send_replace(true);
        assert_eq!(now().await, 1);
        drop(tell);
        assert_eq!(now().await, 0, "the election ended");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
