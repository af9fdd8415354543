//! The ways in which a certificate authority's reply can be wrong. Each is wrong in that one way only.

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The leaf is for a key that nobody has.
    OtherKey,
    /// The leaf is for another service account.
    OtherSan,
    /// The leaf holds a second URI name.
    ExtraSan,
    /// The leaf is a CA certificate.
    CaLeaf,
    /// The leaf lacks serverAuth.
    MissingServerAuth,
    /// The leaf lacks clientAuth.
    MissingClientAuth,
    /// The leaf expired an hour ago.
    Expired,
    /// The leaf is valid in an hour.
    NotYetValid,
    /// The chain is another CA's; the root in the reply is ours.
    ForeignChain,
    /// Chain and root are another CA's, in themselves right.
    ForeignRoot,
    /// No element at all.
    Empty,
    /// The root alone.
    RootOnly,
    /// An intermediate comes before the leaf.
    LeafNotFirst,
    /// The intermediate that signed the leaf is left out. Needs a CA that has one.
    MissingIntermediate,
    /// The first element is no PEM.
    Garbage,
}

impl Fault {
    /// Each of them.
    pub const ALL: [Self; 15] = [
        Self::OtherKey,
        Self::OtherSan,
        Self::ExtraSan,
        Self::CaLeaf,
        Self::MissingServerAuth,
        Self::MissingClientAuth,
        Self::Expired,
        Self::NotYetValid,
        Self::ForeignChain,
        Self::ForeignRoot,
        Self::Empty,
        Self::RootOnly,
        Self::LeafNotFirst,
        Self::MissingIntermediate,
        Self::Garbage,
    ];
}
