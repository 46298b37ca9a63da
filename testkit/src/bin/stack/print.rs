//! Lines on standard output, which nobody has to read: a closed pipe is no reason to stop.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Writes one line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes text as it is, at once.
pub(crate) fn raw(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes one line, formatted like `println!`.
macro_rules! say {
    () => { $crate::print::line(format_args!("")) };
    ($($argument:tt)*) => { $crate::print::line(format_args!($($argument)*)) };
}

pub(crate) use say;
