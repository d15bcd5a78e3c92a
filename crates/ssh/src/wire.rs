//! Values as SSH writes them: RFC 4251, section 5. Pure.

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends before all of it is there.
    #[error("a message that breaks off")]
    Short,
    /// Text that is none.
    #[error("a message with text that is not UTF-8")]
    Text,
}

/// Reads one value after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// All that is left.
    #[cfg(test)]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// So many bytes.
    ///
    /// # Errors
    /// [`WireError::Short`], as of all that follow.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Short)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A boolean; every byte but 0 is true.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        self.u8().map(|byte| byte != 0)
    }

    /// A number.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string of any bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| WireError::Short)?)
    }

    /// A string of text.
    ///
    /// # Errors
    /// [`WireError::Text`] too.
    pub fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Text)
    }
}

/// Writes one value after the other.
#[derive(Debug, Clone, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message begins with its number.
    pub fn message(number: u8) -> Self {
        Self(vec![number])
    }

    /// As it is.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A byte.
    pub fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }

    /// A boolean.
    pub fn bool(self, value: bool) -> Self {
        self.u8(u8::from(value))
    }

    /// A number.
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A number.
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A string; one of 4 GiB or more, which nothing here makes, is cut.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(len).raw(&bytes[..bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX))])
    }

    /// A positive number of any size, its most significant byte first.
    pub fn mpint(self, number: &[u8]) -> Self {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        match number.first() {
            // It would be a negative one.
            Some(0x80..) => self.bytes(&[&[0], number].concat()),
            _ => self.bytes(number),
        }
    }

    /// All of it.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(byte: u8, bit: bool, small: u32, large: u64, text in ".{0,20}") {
            let written = Writer::message(byte).bool(bit).u32(small).u64(large).bytes(text.as_bytes()).raw(b"x").done();
            let mut reader = Reader::new(&written);
            prop_assert_eq!((reader.u8(), reader.bool(), reader.u32()), (Ok(byte), Ok(bit), Ok(small)));
            prop_assert_eq!((reader.u64(), reader.text(), reader.rest()), (Ok(large), Ok(text.as_str()), &b"x"[..]));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut reader = Reader::new(&bytes);
            let _ = (reader.bytes(), reader.text(), reader.u64());
        }
    }

    /// The examples of the RFC.
    #[test]
    fn numbers_of_any_size() {
        let written = |number: &[u8]| Writer::default().mpint(number).done();
        assert_eq!(written(&[0, 0]), [0, 0, 0, 0]);
        assert_eq!(written(&[0, 0x09, 0xa3]), [0, 0, 0, 2, 0x09, 0xa3]);
        assert_eq!(written(&[0x80]), [0, 0, 0, 2, 0, 0x80]);
    }

    #[test]
    fn what_breaks_off_is_refused() {
        assert_eq!(Reader::new(&[0, 0, 0, 2, 7]).bytes(), Err(WireError::Short));
        assert_eq!(Reader::new(&[0xff; 8]).bytes(), Err(WireError::Short));
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0xff]).text(), Err(WireError::Text));
    }
}
