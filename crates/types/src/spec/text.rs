//! Values that are checked text: in JSON they are the text, and only what passes the check becomes one.

/// For `struct $type(String)` with a [`FromStr`](std::str::FromStr) of its own: its text, and the way to JSON and back.
macro_rules! checked_text {
    ($type:ident) => {
        impl $type {
            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = $crate::spec::SpecError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }
    };
}

pub(super) use checked_text;
