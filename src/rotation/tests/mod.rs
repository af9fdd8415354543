//! Rotation as a whole, with a paused clock and a scripted authority.

mod adopt;
mod bundle;
mod fail;
mod fake;
mod life;
mod time;
