//! How old files are: what was written a moment ago may be somebody's who is still at work.

use std::path::Path;
use std::time::Duration;

use super::clock;

/// Whether the file was last written longer ago than `age`. `false` where that can't be told, or the clock was set back.
pub fn is_older(file: &Path, age: Duration) -> bool {
    let written = std::fs::symlink_metadata(file).and_then(|meta| meta.modified());
    written.is_ok_and(|then| clock::wall().duration_since(then).is_ok_and(|passed| passed > age))
}
