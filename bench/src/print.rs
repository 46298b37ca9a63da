//! Lines on standard output, which nobody has to read: a closed pipe is no reason to stop.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Writes one line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes one line, formatted like `println!`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::print::line(format_args!($($argument)*)) };
}

pub(crate) use say;
