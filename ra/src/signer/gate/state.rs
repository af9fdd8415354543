//! Who is in, who waits and what holds them up: all that changes of a gate, behind its one lock.
//!
//! Every change ends with [`State::advance`], which lets in whoever may be let in now, so that no request ever waits
//! without a reason. The reasons that time alone removes are in [`State::next`]. There is no timer here and nothing waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::breaker::{Admitted, Breaker, Change};
use super::bucket::TokenBucket;
use super::error::{GateError, Obstacle};
use super::queue::{FairQueue, Place};
use super::{Outcome, SignerLimits};
use crate::metrics::GateSeries;

/// A gate's state.
#[derive(Debug)]
pub(super) struct State {
    limits: SignerLimits,
    replicas: u32,
    in_flight: usize,
    queue: FairQueue<Waiter>,
    bucket: TokenBucket,
    breaker: Breaker,
    paused: Option<Instant>,
    series: Option<GateSeries>,
    news: Vec<News>,
    /// When the keeper will look.
    planned: Option<Instant>,
}

/// One who waits.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    answer: oneshot::Sender<Turn>,
}

/// What becomes of one who waited.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is in. Whoever drops this unused must give it back.
    In(Admitted),
    /// It was turned out for another namespace; so many may wait.
    Out { queue: usize },
}

/// What becomes of one who arrives.
#[derive(Debug)]
pub(super) enum Arrival {
    In(Admitted),
    Waits(Place, oneshot::Receiver<Turn>),
}

/// What a person would ask for, to be logged once the lock is free.
#[derive(Debug)]
pub(super) enum News {
    Paused { pause: Duration },
    CircuitOpened { cool_down: Duration, why: Arc<str> },
    CircuitClosed,
}

// === impl State ===

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            limits: SignerLimits::default(),
            replicas: 1,
            in_flight: 0,
            queue: FairQueue::new(),
            bucket: TokenBucket::unlimited(now),
            breaker: Breaker::new(),
            paused: None,
            series: None,
            news: Vec::new(),
            planned: None,
        }
    }

    /// Lets in whoever may be let in now, in turn.
    pub(super) fn advance(&mut self, now: Instant) {
        self.breaker.look(now);
        self.paused = self.paused.filter(|end| *end > now);
        while !self.queue.is_empty() && self.obstacle(now).is_none() {
            let Some(waiter) = self.queue.call() else { break };
            let admitted = self.let_in(now.saturating_duration_since(waiter.since), now);
            if let Err(Turn::In(admitted)) = waiter.answer.send(Turn::In(admitted)) {
                // Whoever waits leaves the queue before it goes, so there is always somebody. Should that ever change:
                self.left(&admitted, None, now);
            }
        }
        if let Some(series) = &mut self.series {
            series.waiting.set(self.queue.len());
            series.in_flight.set(self.in_flight);
            series.paused.set(self.paused.is_some().into());
            series.circuit.set(self.breaker.level());
        }
    }

    /// When to advance although nothing happened.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let token = if self.queue.is_empty() {
            None
        } else {
            self.bucket.next(now)
        };
        [self.paused, self.breaker.next(), token].into_iter().flatten().min()
    }

    /// Whether the keeper must be told of a moment before the one that it waits for.
    pub(super) fn plan_earlier(&mut self, now: Instant) -> bool {
        let next = self.next(now);
        let earlier = match (next, self.planned) {
            (Some(next), Some(planned)) => next < planned,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if earlier {
            self.planned = next;
        }
        earlier
    }

    /// For the keeper, who waits for exactly that moment from now on.
    pub(super) fn plan(&mut self, now: Instant) -> Option<Instant> {
        self.planned = self.next(now);
        self.planned
    }

    /// Somebody wants in.
    pub(super) fn arrive(&mut self, namespace: &str, now: Instant) -> Result<Arrival, GateError> {
        // Those who wait already are kept for when it closes, and the first of them is the probe.
        let is_probe = self.queue.is_empty() && self.breaker.lets_in();
        if !(self.breaker.is_closed() || is_probe) {
            return Err(GateError::CircuitOpen {
                why: self.breaker.why(),
            });
        }
        // Then nobody waits either: all who could were let in just now.
        if self.obstacle(now).is_none() {
            return Ok(Arrival::In(self.let_in(Duration::ZERO, now)));
        }
        let queue = self.limits.queue;
        if self.queue.len() >= queue {
            let out = self.queue.make_room_for(namespace);
            let out = out.ok_or(GateError::QueueFull { queue })?;
            // Its client may just be going away.
            _ = out.answer.send(Turn::Out { queue });
        }
        let (answer, turn) = oneshot::channel();
        let place = self.queue.join(namespace, Waiter { since: now, answer });
        Ok(Arrival::Waits(place, turn))
    }

    /// Somebody no longer waits; `false` if its turn had come already.
    pub(super) fn leave(&mut self, place: &Place) -> bool {
        self.queue.leave(place).is_some()
    }

    /// Somebody who was let in is through.
    pub(super) fn left(&mut self, admitted: &Admitted, outcome: Option<Outcome>, now: Instant) {
        self.in_flight -= 1;
        let change = match outcome {
            Some(Outcome::Answered) => self.breaker.answered(),
            Some(Outcome::Away(why)) => self.breaker.failed(admitted, &why, now),
            None => {
                self.breaker.ended(admitted);
                None
            }
        };
        match change {
            Some(Change::Opened(cool_down)) => {
                if let Some(series) = &self.series {
                    series.openings.inc();
                }
                let why = self.breaker.why();
                self.news.push(News::CircuitOpened { cool_down, why });
            }
            Some(Change::Closed) => self.news.push(News::CircuitClosed),
            None => {}
        }
    }

    /// The backend wants no requests until then, and is believed for a minute.
    pub(super) fn pause_until(&mut self, end: Instant, now: Instant) {
        let end = end.min(now + LONGEST_PAUSE);
        if end <= now {
            return;
        }
        if self.paused.is_none() {
            if let Some(series) = &self.series {
                series.pauses.inc();
            }
            self.news.push(News::Paused { pause: end - now });
        }
        self.paused = self.paused.max(Some(end));
    }

    /// Where to count, if that is not known yet.
    pub(super) fn count(&mut self, series: impl FnOnce() -> GateSeries) {
        self.series.get_or_insert_with(series);
    }

    /// The operator's new word.
    pub(super) fn set_limits(&mut self, limits: SignerLimits, now: Instant) {
        self.limits = limits;
        self.share_rate(now);
    }

    /// So many replicas share the rate.
    pub(super) fn set_replicas(&mut self, live: usize, now: Instant) {
        self.replicas = u32::try_from(live).unwrap_or(u32::MAX).max(1);
        self.share_rate(now);
    }

    /// What holds up the one whose turn it is.
    pub(super) fn obstacle(&mut self, now: Instant) -> Option<Obstacle> {
        if self.paused.is_some() {
            Some(Obstacle::Pause)
        } else if !self.breaker.lets_in() {
            Some(Obstacle::Circuit(self.breaker.why()))
        } else if self.in_flight >= self.limits.concurrency {
            Some(Obstacle::Concurrency(self.limits.concurrency))
        } else if let Some(rate) = self.limits.rate
            && !self.bucket.has_token(now)
        {
            Some(Obstacle::Rate(rate))
        } else {
            None
        }
    }

    /// What is to be logged.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn let_in(&mut self, waited: Duration, now: Instant) -> Admitted {
        self.in_flight += 1;
        self.bucket.take();
        if let Some(series) = &self.series {
            series.wait.observe(waited.as_secs_f64());
        }
        self.breaker.let_in(now)
    }

    fn share_rate(&mut self, now: Instant) {
        let share = self
            .limits
            .rate
            .map(|rate| rate.per_second() / f64::from(self.replicas));
        self.bucket.set_rate(share, now);
    }
}

/// Above what an API server asks for (a second by default, in its own overload protection), below the patience of an
/// operator who watches a mesh stand still for one wrong number.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

#[cfg(test)]
impl State {
    /// The number of the next to be let in, if there is one who waits for nothing: a wake-up was lost, or is only just
    /// on its way.
    pub(super) fn waits_for_nothing(&mut self, now: Instant) -> Option<u64> {
        self.breaker.look(now);
        self.paused = self.paused.filter(|end| *end > now);
        (!self.queue.is_empty() && self.obstacle(now).is_none()).then(|| self.breaker.let_in_so_far())
    }
}
