//! Tests of the serving side.
