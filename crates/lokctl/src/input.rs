//! Files and standard input, as they are.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;

/// Most bytes read. Far above what a message may have, so that `--unchecked` can try that bound.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let (name, source): (_, Box<dyn std::io::Read>) = if path.as_os_str() == "-" {
        ("standard input".to_owned(), Box::new(std::io::stdin().lock()))
    } else {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).with_context(|| format!("{name} cannot be opened"))?;
        (name, Box::new(file))
    };
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("{name} cannot be read"))?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_BYTES, "{name} has more than {MAX_BYTES} bytes");
    Ok(bytes)
}
