//! Permissions of API keys.

use std::{fmt, str::FromStr};

/// A permission of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Creating, copying and changing files.
    Upload,
    /// Reading metadata and content of files, and issuing download links.
    Read,
    /// Deleting files and revoking their links.
    Delete,
    /// Operating the service: tasks, nodes, statistics. Not bound to a tenant.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 4] = [Self::Upload, Self::Read, Self::Delete, Self::Admin];

    /// The name of the scope.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Read => "read",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes. Its text form is the names of the scopes, separated by commas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self(u8::MAX);

    /// The set with `scope` added.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether the set contains `scope`.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self(scope.bit())
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let mut scopes = Self::default();
        for name in text.split(',').map(str::trim) {
            let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
            scopes.0 |= scope.ok_or_else(|| UnknownScope(name.to_owned()))?.bit();
        }
        Ok(scopes)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Scope::ALL.into_iter().filter(|scope| self.contains(*scope)).map(Scope::as_str);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

/// The text is not a scope.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a scope; use upload, read, delete or admin")]
pub struct UnknownScope(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_parsed_and_formatted() {
        let scopes: Scopes = "read, upload".parse().unwrap();
        assert_eq!(scopes.to_string(), "upload,read");
        assert!(scopes.contains(Scope::Read) && scopes.contains(Scope::Upload));
        assert!(!scopes.contains(Scope::Delete) && !scopes.contains(Scope::Admin));
        for bad in ["", "read,", "Read", "all"] {
            assert!(bad.parse::<Scopes>().is_err(), "{bad:?}");
        }
    }
}
