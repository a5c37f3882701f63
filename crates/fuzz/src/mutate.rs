//! New inputs from old ones.

use rand::Rng;
use rand::seq::IndexedRandom as _;

/// Most changes of one input at once.
const MAX_CHANGES: usize = 6;

/// Most bytes that one change copies or removes.
const MAX_SPAN: usize = 64;

/// Bytes at which readers decide.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xc0\xff\"\\{}[]:,.-+eE/@#%0123456789 \n";

/// Makes inputs out of others.
pub(crate) struct Mutator {
    dictionary: Vec<Vec<u8>>,
    max_bytes: usize,
}

impl Mutator {
    /// Makes inputs of up to `max_bytes`, with words of `dictionary`: a libFuzzer dictionary, a word in double quotes a
    /// line.
    pub(crate) fn new(dictionary: &str, max_bytes: usize) -> Self {
        let words = dictionary.lines().filter_map(|line| unquoted(line.trim())).collect();
        Self { dictionary: words, max_bytes }
    }

    /// Changes one of the inputs, here and there.
    pub(crate) fn change(&self, inputs: &[Vec<u8>], random: &mut impl Rng) -> Vec<u8> {
        let mut input = inputs.choose(random).cloned().unwrap_or_default();
        for _ in 0..random.random_range(1..=MAX_CHANGES) {
            self.change_once(&mut input, inputs, random);
        }
        input.truncate(self.max_bytes);
        input
    }

    fn change_once(&self, input: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut impl Rng) {
        let at = random.random_range(0..=input.len());
        let span = at..random.random_range(at..=input.len().min(at + MAX_SPAN));
        match random.random_range(0..8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
            1 => {
                if let (Some(byte), Some(telling)) = (input.get_mut(at), TELLING.choose(random)) {
                    *byte = *telling;
                }
            }
            2 => drop(input.drain(span)),
            3 => {
                let copy = input[span].to_vec();
                let times = random.random_range(1..=8);
                input.splice(at..at, copy.repeat(times));
            }
            4 => {
                if let Some(word) = self.dictionary.choose(random) {
                    input.splice(at..at, word.iter().copied());
                }
            }
            5 => {
                if let Some(word) = self.dictionary.choose(random) {
                    input.splice(span, word.iter().copied());
                }
            }
            6 => {
                if let Some(other) = inputs.choose(random) {
                    let from = random.random_range(0..=other.len());
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
            }
            _ => {
                let byte = TELLING.choose(random).copied().unwrap_or_default();
                input.insert(at, byte);
            }
        }
    }
}

/// The word between double quotes, with libFuzzer's escapes.
fn unquoted(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut word = Vec::with_capacity(rest.len());
    while let [first, others @ ..] = rest {
        let (byte, left) = match (first, others) {
            (b'\\', [b'x', high, low, left @ ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?, left)
            }
            (b'\\', [escaped @ (b'\\' | b'"'), left @ ..]) => (*escaped, left),
            (b'\\', _) => return None,
            (byte, left) => (*byte, left),
        };
        word.push(byte);
        rest = left;
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn words_are_read_as_libfuzzer_reads_them() {
        assert_eq!(unquoted(r#""a\"\\\x0a""#), Some(b"a\"\\\n".to_vec()));
        for none in ["", "# a comment", "a", r#""\n""#, r#""\x0""#] {
            assert_eq!(unquoted(none), None, "{none}");
        }
    }

    #[test]
    fn a_seed_makes_the_same_inputs_again_and_none_is_too_long() {
        let mutator = Mutator::new("\"word\"\n", 100);
        let inputs = [b"one input".to_vec(), b"another".to_vec()];
        let made = |seed| -> Vec<Vec<u8>> {
            let mut random = StdRng::seed_from_u64(seed);
            (0..1000).map(|_| mutator.change(&inputs, &mut random)).collect()
        };
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
        assert!(made(7).iter().all(|input| input.len() <= 100));
        assert!(made(7).iter().any(|input| input.windows(4).any(|window| window == b"word")));
    }
}
