//! Rows in bulk: a JSON array of arrays, which is one parameter of one statement.
//!
//! A row is an array and no object: without names, which all rows repeat, a statement costs half as much.

use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// Concatenates constants to the text of a statement.
pub use const_format::concatcp as sql;

/// A struct that is a row of a bulk statement: its fields are columns, each with its type in SQL, `text` or `bigint`.
///
/// `COLUMNS` lists their names, `SELECT` is the query that gives them back from the [`rows`](crate::db::rows) in `$1`, and
/// `VALUES` is both, as an `insert` wants them.
#[macro_export]
macro_rules! db_row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $Row:ident $(<$life:lifetime>)? {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $Type:ty => $sql:ident),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $Row $(<$life>)? {
            $($(#[$field_attribute])* $field_visibility $field: $Type),+
        }

        impl $(<$life>)? $Row $(<$life>)? {
            const COLUMNS: &'static str =
                $crate::const_format::str_index!($crate::db::sql!($(", ", stringify!($field)),+), 2..);
            const SELECT: &'static str = {
                #[allow(non_camel_case_types)]
                enum Place { $($field),+ }
                const CASTS: &str = $crate::const_format::str_index!(
                    $crate::db::sql!($(
                        ", cast(value->>", Place::$field as usize, " as ", stringify!($sql), ") as ", stringify!($field)
                    ),+),
                    2..
                );
                $crate::db::sql!("select ", CASTS, " from jsonb_each($1)")
            };
            #[allow(dead_code, reason = "not all rows are inserted as they are")]
            const VALUES: &'static str = $crate::db::sql!("(", $Row::COLUMNS, ") ", $Row::SELECT);
        }

        impl $(<$life>)? ::serde::Serialize for $Row $(<$life>)? {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeSeq as _;
                let mut row = serializer.serialize_seq(None)?;
                $(row.serialize_element(&self.$field)?;)+
                row.end()
            }
        }
    };
}
pub use db_row as row;

/// Rows as the one parameter of `jsonb_each($1)`. A NUL in a text, which PostgreSQL cannot store, becomes U+FFFD: texts of
/// other programs, such as the reason of a revert, may hold one.
///
/// # Panics
///
/// If `T` cannot be JSON, such as a map whose keys are not text.
pub fn rows<T: Serialize>(rows: &[T]) -> String {
    // About as much as they take in memory: a text that grows is copied again and again.
    let mut json = Vec::with_capacity(size_of_val(rows));
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, WithoutNul);
    rows.serialize(&mut serializer).expect("rows are plain structs");
    String::from_utf8(json).expect("JSON is UTF-8")
}

/// Rows of one column each, which `select value->>0 from jsonb_each($1)` gives back.
pub fn keys<T: Serialize>(keys: impl IntoIterator<Item = T>) -> String {
    rows(&keys.into_iter().map(|key| [key]).collect::<Vec<_>>())
}

/// Compact JSON, but for one character.
struct WithoutNul;

impl Formatter for WithoutNul {
    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::AsciiControl(0) => writer.write_all("\u{fffd}".as_bytes()),
            other => CompactFormatter.write_char_escape(writer, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    row! {
        struct Line<'a> {
            name: &'a str => text,
            number: Option<u64> => bigint,
        }
    }

    #[test]
    fn a_row_is_an_array_in_the_order_of_its_columns() {
        assert_eq!(Line::COLUMNS, "name, number");
        let select = "select cast(value->>0 as text) as name, cast(value->>1 as bigint) as number from jsonb_each($1)";
        assert_eq!(Line::SELECT, select);
        let lines = [Line { name: "a\0b", number: None }, Line { name: "\"", number: Some(7) }];
        assert_eq!(rows(&lines), "[[\"a\u{fffd}b\",null],[\"\\\"\",7]]");
        assert_eq!(keys(["a", "b"]), r#"[["a"],["b"]]"#);
    }
}
