//! Tenants, the owners of files. A tenant learns nothing about the content of other tenants, not
//! even whether the same content exists there.

use std::{fmt, sync::Arc};

/// Maximum length of a tenant name, in bytes.
pub const MAX_TENANT_NAME_BYTES: usize = 64;

/// The name of a tenant: 1 to [`MAX_TENANT_NAME_BYTES`] characters of `a`-`z`, `0`-`9`, `-` and
/// `_`. All supported databases compare such names in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(Arc<str>);

/// The text is not a tenant name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tenant name must be 1 to {MAX_TENANT_NAME_BYTES} characters long and contain only `a`-`z`, `0`-`9`, `-` and `_`"
)]
pub struct InvalidTenant;

impl Tenant {
    /// Creates a tenant from a name in the database, without checking the name.
    pub fn from_db(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The tenant `default`: it owns the files of requests without an API key, and is the default for
/// new keys.
impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

impl std::str::FromStr for Tenant {
    type Err = InvalidTenant;

    fn from_str(name: &str) -> Result<Self, InvalidTenant> {
        let is_valid = (1..=MAX_TENANT_NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if is_valid { Ok(Self(name.into())) } else { Err(InvalidTenant) }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_have_few_characters() {
        for name in ["a", "default", "team-7_x", &"t".repeat(64)] {
            assert_eq!(name.parse::<Tenant>().unwrap().as_str(), name);
        }
        for name in ["", "A", "a b", "é", "a/b", "a\n", &"t".repeat(65)] {
            assert_eq!(name.parse::<Tenant>(), Err(InvalidTenant), "{name:?}");
        }
    }
}
