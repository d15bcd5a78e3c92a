//! What the workloads write: numbered lines of 16 bytes. Pure: the bytes at a position are known.

pub const LINE: u64 = 16;
/// Lines of a block of `tests/guests/lines.c`.
const BLOCK_LINES: u64 = 2048;
/// All that `tests/guests/lines.c` writes.
pub const FLOOD_BYTES: u64 = 8 << 20;

/// How the lines of one start are numbered.
#[derive(Debug, Clone, Copy)]
pub enum Lines {
    /// Upwards from this number.
    From(u64),
    /// In blocks: the first line counts the blocks, the others their place in it.
    Blocks,
}

impl Lines {
    /// How many of `bytes`, which stand at `position` of what this start wrote, are as they must be.
    pub fn matching(self, position: u64, bytes: &[u8]) -> usize {
        let mut line = position / LINE;
        let mut skip = usize::try_from(position % LINE).unwrap_or(0);
        let mut text = self.text(line);
        let mut done = 0;
        while done < bytes.len() {
            let length = (text.len() - skip).min(bytes.len() - done);
            if bytes[done..done + length] != text[skip..skip + length] {
                return done;
            }
            done += length;
            skip = 0;
            line += 1;
            match self {
                Self::From(_) => add_one(&mut text[..15]),
                Self::Blocks => text = self.text(line),
            }
        }
        done
    }

    fn text(self, line: u64) -> [u8; 16] {
        let mut number = match self {
            Self::From(base) => base + line,
            Self::Blocks if line.is_multiple_of(BLOCK_LINES) => line / BLOCK_LINES,
            Self::Blocks => line % BLOCK_LINES,
        };
        let mut text = [b'\n'; 16];
        for digit in text[..15].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        text
    }
}

fn add_one(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

#[test]
fn gaps_and_doubles_are_seen_at_their_byte() {
    let text: Vec<u8> = (7..200_u64).flat_map(|n| format!("{n:015}\n").into_bytes()).collect();
    let lines = Lines::From(7);
    assert_eq!(lines.matching(0, &text), text.len());
    assert_eq!(lines.matching(37, &text[37..1000]), 963);
    let gap = [&text[..160], &text[176..]].concat();
    assert!((160..176).contains(&lines.matching(0, &gap)));
    let double = [&text[..160], &text[144..]].concat();
    assert!((160..176).contains(&lines.matching(0, &double)));
    let blocks: Vec<u8> = (0..3 * 2048_u64)
        .flat_map(|n| format!("{:015}\n", if n % 2048 == 0 { n / 2048 } else { n % 2048 }).into_bytes())
        .collect();
    assert_eq!(Lines::Blocks.matching(0, &blocks), blocks.len());
    assert!(Lines::Blocks.matching(0, &blocks[32768..]) < 16);
}
