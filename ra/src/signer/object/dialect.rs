//! What a kind of request object adds to the engine: its API, and one signer behind it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::SystemTime;

use super::ask::Ask;
use super::kind::RequestKind;
use super::stage::Hints;

/// What one API, and one signer behind it, adds to the engine.
pub(crate) trait Dialect: Debug + Send + Sync + 'static {
    /// Its request objects.
    type Object: RequestKind;
    /// What is fixed for one request, whatever is configured anew meanwhile.
    type Terms: Send + Sync;

    /// The terms of a request that begins now, or why the signer cannot sign now.
    fn terms(&self) -> impl Future<Output = Result<Self::Terms, String>> + Send;

    /// The object to create.
    fn draft(&self, terms: &Self::Terms, ask: &Ask, marks: Marks) -> Self::Object;

    /// What, beside the CSR, an object asks for that `draft` does not.
    fn difference(&self, draft: &Self::Object, found: &Self::Object) -> Option<&'static str>;

    /// The object with our approval; `None` if others approve.
    fn approved(&self, object: &Self::Object, now: SystemTime) -> Option<Self::Object>;

    /// What keeps us waiting.
    fn hints(&self) -> Hints;

    /// The rule that lets us approve, for the log.
    fn approval_rule(&self) -> String;

    /// Objects are kept.
    fn preserves(&self) -> bool;
}

/// What the engine puts on every object.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}
