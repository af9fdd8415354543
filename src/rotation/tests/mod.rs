//! Rotation as a whole, with a paused clock and a scripted authority.

#![allow(
    clippy::unchecked_time_subtraction,
    reason = "moments are subtracted from later ones"
)]

mod adopt;
mod bundle;
mod fail;
pub(crate) mod fake;
mod life;
mod refuse;
mod slow;
mod time;
