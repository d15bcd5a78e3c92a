//! The fields that a type may have in JSON, asked of the type itself: serde tells them to whoever reads one.

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// Their names, in the order of the type; none of what is no struct with names, or has another one flattened in.
pub fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &[&str] = &[];
    // It has nothing to read, and says so.
    let _ = T::deserialize(Listener(&mut names));
    names
}

/// Hears the names, and ends the reading there.
struct Listener<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only the names are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use sandpen::api::Sandbox;

    use super::*;

    #[test]
    fn a_sandbox_tells_all_its_fields() {
        let names = fields::<Sandbox>();
        assert!(names.contains(&"name") && names.contains(&"out_of_memory") && names.contains(&"labels"), "{names:?}");
        assert!(fields::<Vec<Sandbox>>().is_empty());
    }
}
