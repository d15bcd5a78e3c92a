//! One range of bytes, as RFC 9110 writes it: `bytes=0-99`, `bytes=100-` or `bytes=-100`.

use actix_web::http::header::HeaderValue;

use super::Rejection;
use crate::api::ErrorCode;
use crate::orchestrator::FileRange;

/// What the header `Range` asks for.
pub fn read(value: &HeaderValue) -> Result<FileRange, Rejection> {
    value.to_str().ok().and_then(parse).ok_or_else(|| {
        let message = "the header Range takes one range of bytes, such as bytes=0-99, bytes=100- or bytes=-100";
        Rejection::new(ErrorCode::InvalidRequest, message)
    })
}

fn parse(text: &str) -> Option<FileRange> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().ok()).flatten()
    };
    match (first, last) {
        ("", last) => number(last).filter(|count| *count > 0).map(FileRange::Last),
        (first, "") => Some(FileRange::From { offset: number(first)?, length: None }),
        (first, last) => {
            let (offset, last) = (number(first)?, number(last)?);
            // The last one is part of it.
            let length = last.checked_sub(offset)?.checked_add(1)?;
            Some(FileRange::From { offset, length: Some(length) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_of_bytes() {
        assert_eq!(parse("bytes=0-0"), Some(FileRange::From { offset: 0, length: Some(1) }));
        assert_eq!(parse("bytes=5-9"), Some(FileRange::From { offset: 5, length: Some(5) }));
        assert_eq!(parse("bytes=5-"), Some(FileRange::From { offset: 5, length: None }));
        assert_eq!(parse("bytes=-5"), Some(FileRange::Last(5)));
        let last = "bytes=18446744073709551615-18446744073709551615";
        assert_eq!(parse(last), Some(FileRange::From { offset: u64::MAX, length: Some(1) }));
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=9-5",
            "bytes=+1-2",
            "bytes=1-2,4-5",
            "bytes=a-b",
            "bytes=0-18446744073709551615",
            "bytes=18446744073709551616-",
            "lines=1-2",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
