//! Reads settings from a YAML tree. Collects all problems instead of stopping at the first.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A tree of settings from the file and the environment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// From the environment, where everything is text: converted to the type of the setting.
    Untyped(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

impl Node {
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

    /// The value of a key, if this is a section that contains it.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        if let Self::Map(map) = self { map.get_mut(key) } else { None }
    }

    /// Sets the value at `path` and creates missing sections.
    pub(super) fn set(&mut self, path: &[String], value: Node) {
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

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = access.next_entry::<String, Node>()? {
            if map.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("`{key}` appears twice")));
            }
        }
        Ok(Node::Map(map))
    }
}

/// Problems and warnings of a configuration. Each is one sentence that begins with the path of its
/// setting.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Findings {
    pub(super) fn problem(&mut self, path: &str, problem: impl fmt::Display) {
        self.problems.push(format!("{path}: {problem}"));
    }

    fn wrong_type(&mut self, path: &str, expected: &str, found: &Node) {
        self.problem(path, format_args!("must be {expected}, not {}", found.kind()));
    }
}

/// A type of settings. `read` returns `None` after recording a problem; the default applies then.
pub(super) trait Value: Sized {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self>;
}

impl Value for bool {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        match &node {
            Node::Bool(value) => return Some(*value),
            Node::Untyped(text) => {
                if let Ok(value) = text.parse() {
                    return Some(value);
                }
            }
            _ => {}
        }
        findings.wrong_type(path, "true or false", &node);
        None
    }
}

impl Value for u64 {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        let value = match &node {
            Node::Integer(value) => Some(*value),
            Node::Untyped(text) => text.parse().ok(),
            _ => None,
        };
        let value = value.and_then(|value| Self::try_from(value).ok());
        if value.is_none() {
            findings.wrong_type(path, "a whole number that is not negative", &node);
        }
        value
    }
}

/// Reads a number of a smaller type.
fn small<T: TryFrom<u64>>(
    node: Node,
    path: &str,
    findings: &mut Findings,
    max: impl fmt::Display,
) -> Option<T> {
    let value = u64::read(node, path, findings)?;
    let small = T::try_from(value).ok();
    if small.is_none() {
        findings.problem(path, format_args!("{value} is above {max}"));
    }
    small
}

impl Value for u16 {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        small(node, path, findings, Self::MAX)
    }
}

impl Value for u32 {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        small(node, path, findings, Self::MAX)
    }
}

impl Value for String {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            Node::Text(text) | Node::Untyped(text) => Some(text),
            Node::Integer(_) | Node::Float(_) | Node::Bool(_) => {
                findings.problem(path, "must be text: put it in quotes");
                None
            }
            node => {
                findings.wrong_type(path, "text", &node);
                None
            }
        }
    }
}

impl Value for PathBuf {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        let text = String::read(node, path, findings)?;
        if text.is_empty() {
            findings.problem(path, "must not be empty");
            return None;
        }
        Some(text.into())
    }
}

impl<T: Value> Value for Option<T> {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            Node::Null => Some(None),
            node => T::read(node, path, findings).map(Some),
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(node: Node, path: &str, findings: &mut Findings) -> Option<Self> {
        let Node::List(nodes) = node else {
            findings.wrong_type(path, "a list", &node);
            return None;
        };
        let read = |(index, node)| T::read(node, &format!("{path}[{index}]"), findings);
        nodes.into_iter().enumerate().map(read).collect()
    }
}

/// Reports the keys that remain in a section after all known settings were taken out.
pub(super) fn report_unknown(
    rest: BTreeMap<String, Node>,
    path: &str,
    known: &[&str],
    ignored: &[&str],
    findings: &mut Findings,
) {
    for key in rest.into_keys() {
        let full = join(path, &key);
        if ignored.contains(&key.as_str()) {
            findings.warnings.push(format!("{full}: has no effect and is ignored"));
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

/// Declares a section of settings with documentation and defaults. `ignored` lists keys of the Go
/// program that have no effect here: they are accepted with a warning.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)*
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

        impl $crate::config::value::Value for $name {
            fn read(
                node: $crate::config::value::Node,
                path: &str,
                findings: &mut $crate::config::value::Findings,
            ) -> Option<Self> {
                use $crate::config::value::{Node, Value, join, report_unknown};
                let mut settings = Self::default();
                let mut map = match node {
                    // A section in which all settings are commented out.
                    Node::Null => return Some(settings),
                    Node::Map(map) => map,
                    _ => {
                        findings.problem(path, "must be a section of settings");
                        return None;
                    }
                };
                $(
                    if let Some(node) = map.remove(stringify!($field)) {
                        let path = join(path, stringify!($field));
                        if let Some(value) = <$type as Value>::read(node, &path, findings) {
                            settings.$field = value;
                        }
                    }
                )*
                report_unknown(map, path, &[$(stringify!($field)),*], &[$($ignored),*], findings);
                Some(settings)
            }
        }
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

        impl $crate::config::value::Value for $name {
            fn read(
                node: $crate::config::value::Node,
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

pub(super) use {choice, section};
