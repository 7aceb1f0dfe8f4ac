//! Query parameters of API v1.

use std::borrow::Cow;

use osproxy_core::{Error, Result};

/// Decoded query parameters. All are known, and none is repeated.
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses a query. Fails with `InvalidArgument` if a parameter is not in `known` or occurs
    /// twice.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self> {
        let mut names = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).map(|(name, _)| name);
        if let Some(name) = names.find(|name| !known.contains(&&**name)) {
            let message = format!("unknown parameter `{name}`");
            return Err(Error::invalid(message).with_field(name));
        }
        Self::parse_known(query, known)
    }

    /// Parses a query, ignoring unknown parameters. Used for links that people share, because
    /// messengers append parameters to such links. Fails with `InvalidArgument` if a known
    /// parameter occurs twice.
    pub(crate) fn parse_known(query: Option<&'a str>, known: &[&str]) -> Result<Self> {
        let mut parameters: Vec<(Cow<'a, str>, _)> = Vec::new();
        let all = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        for (name, value) in all.filter(|(name, _)| known.contains(&&**name)) {
            if parameters.iter().any(|(before, _)| *before == name) {
                return Err(Error::invalid(format!("`{name}` is given twice")).with_field(name));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Returns a parameter, if it is present.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let parameter = self.0.iter().find(|(known, _)| known == name);
        parameter.map(|(_, value)| &**value)
    }

    /// Parses an optional parameter. Its value must be the `name` of one of the `known` values.
    pub(super) fn one_of<T: Copy, N: AsRef<str>>(
        &self,
        parameter: &str,
        known: &[T],
        name: impl Fn(T) -> N,
    ) -> Result<Option<T>> {
        let Some(text) = self.get(parameter) else {
            return Ok(None);
        };
        if let Some(value) = known.iter().find(|&&value| name(value).as_ref() == text) {
            return Ok(Some(*value));
        }
        let names: Vec<_> = known.iter().map(|&value| name(value)).collect();
        let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
        let message = format!("`{parameter}` must be one of {}", names.join(", "));
        Err(Error::invalid(message).with_field(parameter))
    }

    /// Returns a required parameter. Fails with `InvalidArgument` if it is absent.
    pub(crate) fn required(&self, name: &str) -> Result<&str> {
        self.get(name)
            .ok_or_else(|| Error::invalid(format!("parameter `{name}` is missing")).with_field(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_repeated_parameters_are_rejected() {
        let query = Query::parse(Some("limit=5&prefix=%C3%A9+x"), &["limit", "prefix", "state"]).unwrap();
        assert_eq!((query.get("limit"), query.get("prefix")), (Some("5"), Some("é x")));
        assert_eq!(query.get("state"), None);
        assert!(query.required("state").is_err());
        for (wrong, name) in [("limt=5", "limt"), ("limit=5&limit=6", "limit"), ("=", ""), ("x", "x")] {
            let Err(error) = Query::parse(Some(wrong), &["limit"]) else { panic!("{wrong}") };
            assert!(error.message.contains(&format!("`{name}`")), "{error}");
            assert_eq!(error.members().collect::<Vec<_>>(), [("field", &name.into())]);
        }
        let appended = Some("utm_source=a&limit=5&utm_source=b&=");
        assert_eq!(Query::parse_known(appended, &["limit"]).unwrap().get("limit"), Some("5"));
        assert!(Query::parse_known(Some("limit=5&x&limit=6"), &["limit"]).is_err());
    }
}
