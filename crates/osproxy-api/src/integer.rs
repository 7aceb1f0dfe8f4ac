//! Deserializes integers. JSON has only one number type, and some clients write `3600.0` for
//! `3600`, so both are accepted.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// Deserializes an optional integer, also from a number such as `3600.0`.
pub(crate) fn optional<'de, D: Deserializer<'de>, T: TryFrom<i64>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let number = Option::<Number>::deserialize(deserializer)?;
    let fits = number.map(|Number(number)| {
        number.try_into().map_err(|_| D::Error::invalid_value(Unexpected::Signed(number), &Whole))
    });
    fits.transpose()
}

struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// Deserializes an integer, also from a number such as `3600.0`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Whole)
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
        value.try_into().map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
        // Convert through text: unlike a cast, parsing never truncates or saturates.
        let whole = Some(value).filter(|value| value.fract() == 0.0);
        let parsed = whole.and_then(|value| format!("{value:.0}").parse().ok());
        parsed.ok_or_else(|| E::invalid_value(Unexpected::Float(value), &self))
    }
}
