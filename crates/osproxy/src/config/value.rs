//! Reads settings from a YAML tree. Collects all problems instead of stopping at the first.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A tree of settings from the file and the environment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RawValue {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// Text from the environment, which is converted to the type of the setting.
    Untyped(String),
    List(Vec<RawValue>),
    Map(BTreeMap<String, RawValue>),
}

impl RawValue {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) | Self::Untyped(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
        }
    }

    /// Formats the value for error messages: numbers and text as they are, other values by their
    /// kind. Must not be used for secrets.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => format!("{value:?}"),
            Self::Text(text) | Self::Untyped(text) => format!("{text:?}"),
            _ => self.kind().to_owned(),
        }
    }

    /// Returns the value of `key`; `None` if this is not a section with that key.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        if let Self::Map(map) = self { map.get_mut(key) } else { None }
    }

    /// Sets the value at `path`, and creates missing sections. Values on the path that are not
    /// sections are replaced by sections.
    pub(super) fn set(&mut self, path: &[String], value: RawValue) {
        let Some((first, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self, Self::Map(_)) {
            *self = Self::Map(BTreeMap::new());
        }
        if let Self::Map(map) = self {
            map.entry(first.clone()).or_insert(Self::Null).set(rest, value);
        }
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(RawValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = access.next_entry::<String, RawValue>()? {
            if map.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("`{key}` appears twice")));
            }
        }
        Ok(RawValue::Map(map))
    }
}

/// Problems and warnings of a configuration. Each is one text that names a setting or section by
/// its path.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Findings {
    pub(super) fn problem(&mut self, path: &str, problem: impl fmt::Display) {
        self.problems.push(format!("{path}: {problem}"));
    }

    fn type_mismatch(&mut self, path: &str, expected: &str, found: &RawValue) {
        self.problem(path, format_args!("must be {expected}, not {}", found.kind()));
    }
}

/// The type of a setting. If the value is invalid, `read` records a problem and returns `None`; the
/// setting then keeps its default.
pub(super) trait SettingValue: Sized {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self>;
}

impl SettingValue for bool {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        match &node {
            RawValue::Bool(value) => return Some(*value),
            RawValue::Untyped(text) => {
                if let Ok(value) = text.parse() {
                    return Some(value);
                }
            }
            _ => {}
        }
        findings.type_mismatch(path, "true or false", &node);
        None
    }
}

impl SettingValue for u64 {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        let value = match &node {
            RawValue::Integer(value) => Some(*value),
            RawValue::Untyped(text) => text.parse().ok(),
            _ => None,
        };
        let value = value.and_then(|value| Self::try_from(value).ok());
        if value.is_none() {
            let found = node.shown();
            findings.problem(path, format_args!("must be a non-negative whole number, not {found}"));
        }
        value
    }
}

/// Converts a number to a smaller type.
pub(super) fn to_small_integer<T: TryFrom<u64>>(
    value: u64,
    path: &str,
    findings: &mut Findings,
    max: impl fmt::Display,
) -> Option<T> {
    let small = T::try_from(value).ok();
    if small.is_none() {
        findings.problem(path, format_args!("{value} is above {max}"));
    }
    small
}

impl SettingValue for u16 {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        to_small_integer(u64::read(node, path, findings)?, path, findings, Self::MAX)
    }
}

impl SettingValue for u32 {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        to_small_integer(u64::read(node, path, findings)?, path, findings, Self::MAX)
    }
}

impl SettingValue for String {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            RawValue::Text(text) | RawValue::Untyped(text) => Some(text),
            RawValue::Integer(_) | RawValue::Float(_) | RawValue::Bool(_) => {
                findings.problem(path, "must be text: put it in quotes");
                None
            }
            node => {
                findings.type_mismatch(path, "text", &node);
                None
            }
        }
    }
}

impl SettingValue for PathBuf {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        let text = String::read(node, path, findings)?;
        if text.is_empty() {
            findings.problem(path, "must not be empty");
            return None;
        }
        Some(text.into())
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            RawValue::Null => Some(None),
            node => T::read(node, path, findings).map(Some),
        }
    }
}

impl<T: SettingValue> SettingValue for Vec<T> {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        let RawValue::List(nodes) = node else {
            findings.type_mismatch(path, "a list", &node);
            return None;
        };
        let read = |(index, node)| T::read(node, &format!("{path}[{index}]"), findings);
        nodes.into_iter().enumerate().map(read).collect()
    }
}

/// The value of a setting, and the path under which the user wrote the setting.
pub(super) struct Written {
    /// Full path, with the current name or an old name of the setting.
    pub(super) path: String,
    pub(super) node: RawValue,
}

/// Removes a setting from its section and returns it. The user may have written its current name or
/// an old one. An old name adds a warning; two names of the same setting are a problem.
pub(super) fn take(
    section: &mut BTreeMap<String, RawValue>,
    path: &str,
    name: &str,
    old_names: &[&str],
    findings: &mut Findings,
) -> Option<Written> {
    let current = join(path, name);
    let mut written = section.remove(name).map(|node| Written { path: current.clone(), node });
    for old_name in old_names {
        let Some(node) = section.remove(*old_name) else { continue };
        let old = join(path, old_name);
        if let Some(Written { path: other, .. }) = &written {
            let problem =
                format_args!("is an old name of `{current}`, and `{other}` is set; remove one of them");
            findings.problem(&old, problem);
        } else {
            findings.warnings.push(format!("`{old}` is now called `{current}`"));
            written = Some(Written { path: old, node });
        }
    }
    written
}

/// Reports the keys that remain in a section after all known settings have been taken out.
pub(super) fn report_unknown(
    rest: BTreeMap<String, RawValue>,
    path: &str,
    known: &[&str],
    ignored: &[&str],
    findings: &mut Findings,
) {
    for key in rest.into_keys() {
        let full = join(path, &key);
        if ignored.contains(&key.as_str()) {
            findings.warnings.push(format!("{full}: has no effect in osproxy"));
            continue;
        }
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key));
        match nearest {
            Some(nearest) if strsim::normalized_damerau_levenshtein(nearest, &key) >= 0.5 => {
                findings.problem(&full, format_args!("unknown setting, did you mean `{nearest}`?"));
            }
            _ => findings.problem(&full, format_args!("unknown setting; use one of: {}", known.join(", "))),
        }
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Declares a section of settings with documentation and defaults:
///
/// ```text
/// name | old_name: type as unit = default,
/// ```
///
/// Old names are accepted with a warning. The unit is `seconds` or `bytes`. A setting with a unit
/// also accepts text such as `30s` or `8MiB`, and its field has the number of seconds or bytes.
/// `ignored` lists keys of the Go program that are accepted with a warning but have no effect.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $name:ident {
            $(
                $(#[$field_doc:meta])*
                $field:ident $(| $old_name:ident)*: $type:ty $(as $unit:ident)? = $default:expr,
            )*
        }
        ignored [$($ignored:literal),*]
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::value::SettingValue for $name {
            fn read(
                node: $crate::config::value::RawValue,
                path: &str,
                findings: &mut $crate::config::value::Findings,
            ) -> Option<Self> {
                use $crate::config::value::{RawValue, read_setting, report_unknown, take};
                let mut settings = Self::default();
                let mut map = match node {
                    // A section in which all settings are commented out.
                    RawValue::Null => return Some(settings),
                    RawValue::Map(map) => map,
                    _ => {
                        findings.problem(path, "must be a section of settings");
                        return None;
                    }
                };
                $(
                    let old_names = &[$(stringify!($old_name)),*];
                    if let Some(written) = take(&mut map, path, stringify!($field), old_names, findings)
                        && let Some(value) = read_setting!(written, findings, $type $(as $unit)?)
                    {
                        settings.$field = value;
                    }
                )*
                report_unknown(map, path, &[$(stringify!($field)),*], &[$($ignored),*], findings);
                Some(settings)
            }
        }
    };
}

/// Reads the value of a setting that was declared with or without a unit.
macro_rules! read_setting {
    ($written:ident, $findings:ident, $type:ty) => {
        <$type as $crate::config::value::SettingValue>::read($written.node, &$written.path, $findings)
    };
    ($written:ident, $findings:ident, $type:ty as seconds) => {
        <$type as $crate::config::quantity::Quantity>::read_as(
            $crate::config::quantity::Unit::Seconds,
            $written.node,
            &$written.path,
            $findings,
        )
    };
    ($written:ident, $findings:ident, $type:ty as bytes) => {
        <$type as $crate::config::quantity::Quantity>::read_as(
            $crate::config::quantity::Unit::Bytes,
            $written.node,
            &$written.path,
            $findings,
        )
    };
}

/// Declares a setting with a fixed set of values.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All values in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value as it appears in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl $crate::config::value::SettingValue for $name {
            fn read(
                node: $crate::config::value::RawValue,
                path: &str,
                findings: &mut $crate::config::value::Findings,
            ) -> Option<Self> {
                let text = String::read(node, path, findings)?;
                match text.as_str() {
                    $($word => Some(Self::$variant),)*
                    other => {
                        let words = [$($word),*].join(", ");
                        findings.problem(path, format_args!("must be one of {words}, not {other:?}"));
                        None
                    }
                }
            }
        }
    };
}

pub(super) use {choice, read_setting, section};
