//! Ring `leak`: both programs as processes with everything logged, and a search for their secrets in all that they let out.
//!
//! Proves I1 (a private key leaves the agent only in an SDS answer) and that no token and no CA key is repeated anywhere.
//! The search itself is proven in the testkit, by secrets that are planted in every form that it claims to find.

#[path = "ring_leak/evidence.rs"]
mod evidence;
#[path = "ring_leak/hardened.rs"]
mod hardened;
#[path = "ring_leak/life.rs"]
mod life;
#[path = "ring_leak/memory.rs"]
mod memory;
#[path = "ring_leak/mistakes.rs"]
mod mistakes;
#[path = "ring_leak/refusals.rs"]
mod refusals;
