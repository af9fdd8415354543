//! Real peers for tests and the demo: Envoy and both programs as processes, and the scenarios that join them. Never ships.
