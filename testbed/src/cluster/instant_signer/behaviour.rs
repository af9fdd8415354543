//! What the signer does with a request: right by default, wrong on demand, each way by itself.

use std::time::{Duration, SystemTime};

use ensign_testkit::{Fault, Gate, TestCa, ca::BACKDATE};

/// What happens to one request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// A certificate, once the request is approved.
    Sign(Answer),
    /// Nothing, ever.
    Silent,
    /// The condition Denied with this reason, as soon as the request is seen: before or instead of another's approval.
    Deny(String),
    /// The condition Failed (of a CertificateRequest: Ready=False, Failed) with this message, once it is approved.
    Fail(String),
    /// The condition InvalidRequest of a CertificateRequest, with this message; of a CSR: Failed.
    Invalid(String),
    /// Somebody deletes the object once it is approved.
    Delete,
    /// Somebody deletes it as soon as it is seen.
    DeleteUnapproved,
}

/// A certificate as the answer, and how.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    fault: Option<Fault>,
    gate: Option<Gate>,
    ahead: Duration,
    lifetime: Option<Duration>,
    ca: Option<TestCa>,
    order: Order,
    ca_field: CaField,
}

/// In which order the certificates of the answer come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Leaf, intermediates from the issuing one upwards; no root.
    #[default]
    Usual,
    /// The same, and the root at the end.
    WithRoot,
    /// Root first, leaf last.
    Reversed,
    /// Leaf first, then the root, then the intermediates from the top.
    RootSecond,
}

/// What `status.ca` of a CertificateRequest holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CaField {
    /// The root.
    #[default]
    Root,
    /// Nothing.
    Absent,
    /// This text.
    Other(String),
}

/// What goes into the object's status.
pub(super) struct Certificates {
    pub(super) chain_pem: String,
    pub(super) ca_pem: Option<String>,
}

// === impl Behaviour ===

impl Behaviour {
    /// The right answer at once.
    pub fn sign() -> Self {
        Self::Sign(Answer::default())
    }

    /// Whether it waits for somebody's approval.
    pub(super) fn waits_for_approval(&self) -> bool {
        match self {
            Self::Sign(_) | Self::Fail(_) | Self::Invalid(_) | Self::Delete => true,
            Self::Silent | Self::Deny(_) | Self::DeleteUnapproved => false,
        }
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::Sign(answer)
    }
}

// === impl Answer ===

impl Answer {
    /// Wrong in this way.
    pub fn wrong(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Only once the gate opens.
    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Valid only from so long after the signing.
    pub fn not_before_in(mut self, ahead: Duration) -> Self {
        self.ahead = ahead;
        self
    }

    /// For this long instead of what was asked.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// By another authority than the signer's own.
    pub fn by(mut self, ca: &TestCa) -> Self {
        self.ca = Some(ca.clone());
        self
    }

    /// In another order.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// With something else in `status.ca`.
    pub fn ca_field(mut self, ca_field: CaField) -> Self {
        self.ca_field = ca_field;
        self
    }

    /// Waits for its gate.
    pub(super) async fn due(&self) {
        if let Some(gate) = &self.gate {
            gate.wait().await;
        }
    }

    /// The certificates for a CSR.
    pub(super) fn certificates(&self, own: &TestCa, csr_pem: &str, asked: Duration) -> Certificates {
        let ca = self.ca.as_ref().unwrap_or(own);
        let lifetime = self.lifetime.unwrap_or(asked);
        let mut elements = if self.ahead.is_zero() {
            ca.reply(csr_pem, lifetime, self.fault)
        } else {
            // A certificate begins a little before the time that it is said to be made at.
            let made = SystemTime::now() + BACKDATE + self.ahead;
            ca.reply_at(made, csr_pem, lifetime, self.fault)
        };
        let root = elements.pop();
        let chain: Vec<String> = match (self.order, &root) {
            (Order::Usual, _) | (_, None) => elements,
            (Order::WithRoot, Some(root)) => elements.into_iter().chain([root.clone()]).collect(),
            (Order::Reversed, Some(root)) => [root.clone()].into_iter().chain(elements.into_iter().rev()).collect(),
            (Order::RootSecond, Some(root)) => {
                let mut elements = elements.into_iter();
                let leaf = elements.next();
                leaf.into_iter().chain([root.clone()]).chain(elements.rev()).collect()
            }
        };
        Certificates {
            chain_pem: chain.concat(),
            ca_pem: match &self.ca_field {
                CaField::Root => root,
                CaField::Absent => None,
                CaField::Other(text) => Some(text.clone()),
            },
        }
    }
}
