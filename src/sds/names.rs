//! The two names that this server knows, and what a request's list of names comes down to.
//!
//! Owns the rule that only `default` and `ROOTCA` mean anything. Every other name (`file-cert:~`,
//! `file-root:`, a SPIFFE id, ten thousand of them) is counted and dropped on the spot: it is kept
//! nowhere, reads no file and can reach no key, because nothing behind this file takes a string.

/// What can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// `ROOTCA`: the trust anchors.
    Bundle,
    /// `default`: the workload's certificate and key.
    Certificate,
}

/// One `T` for each name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerName<T> {
    pub(crate) bundle: T,
    pub(crate) certificate: T,
}

/// A request's list of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    known: PerName<bool>,
    unknown: usize,
}

impl Name {
    /// Bundle first: where both are due, the trust anchors go before the leaf that needs them.
    pub(crate) const ALL: [Self; 2] = [Self::Bundle, Self::Certificate];

    /// As Envoy writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "ROOTCA",
            Self::Certificate => "default",
        }
    }

    /// `None` for every name but the two.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

impl<T> PerName<T> {
    pub(crate) const fn of(&self, name: Name) -> &T {
        match name {
            Name::Bundle => &self.bundle,
            Name::Certificate => &self.certificate,
        }
    }

    pub(crate) const fn of_mut(&mut self, name: Name) -> &mut T {
        match name {
            Name::Bundle => &mut self.bundle,
            Name::Certificate => &mut self.certificate,
        }
    }
}

impl Wanted {
    /// True if the list names `name`, once or often.
    pub(crate) const fn has(&self, name: Name) -> bool {
        *self.known.of(name)
    }

    /// True if the list was empty. A list of unknown names is not.
    pub(crate) const fn is_empty(&self) -> bool {
        !self.known.bundle && !self.known.certificate && self.unknown == 0
    }

    /// How many entries were none of our names.
    pub(crate) const fn unknown(&self) -> usize {
        self.unknown
    }

    /// The name, if exactly one of ours is listed.
    pub(crate) const fn only(&self) -> Option<Name> {
        match (self.known.bundle, self.known.certificate) {
            (true, false) => Some(Name::Bundle),
            (false, true) => Some(Name::Certificate),
            (true, true) | (false, false) => None,
        }
    }
}

impl<S: AsRef<str>> FromIterator<S> for Wanted {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let mut wanted = Self::default();
        for name in names {
            match Name::parse(name.as_ref()) {
                Some(known) => *wanted.known.of_mut(known) = true,
                None => wanted.unknown += 1,
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_names_are_known() {
        for name in [
            "",
            "Default",
            "default ",
            "rootca",
            "file-cert:~",
            "file-root:",
            "file-root:system",
            "*",
        ] {
            assert_eq!(Name::parse(name), None, "{name:?}");
        }
        assert_eq!(Name::parse("default"), Some(Name::Certificate));
        assert_eq!(Name::parse("ROOTCA"), Some(Name::Bundle));
    }

    #[test]
    fn duplicates_count_once_and_strangers_are_only_counted() {
        let wanted: Wanted = ["default", "default", "file-cert:~", "x"].into_iter().collect();
        assert!(wanted.has(Name::Certificate) && !wanted.has(Name::Bundle));
        assert_eq!((wanted.unknown(), wanted.only()), (2, Some(Name::Certificate)));
        assert!(!wanted.is_empty());
        assert!(Wanted::from_iter(Vec::<String>::new()).is_empty());
    }
}
