//! A table of two columns.

/// Lines of a frame around the rows, the second column flush right.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = |text: &str| text.chars().count();
    let names = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value)| width(value)).max().unwrap_or(0);
    let edge = |left: &str, middle: &str, right: &str| {
        format!("{left}{}{middle}{}{right}\n", "─".repeat(names + 2), "─".repeat(values + 2))
    };
    let lines: Vec<String> =
        rows.iter().map(|(name, value)| format!("│ {name:<names$} │ {value:>values$} │\n")).collect();
    edge("┌", "┬", "┐") + &lines.concat() + &edge("└", "┴", "┘")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = table(&[("a", "1".to_owned()), ("longer", "22".to_owned())]);
        assert_eq!(table, "┌────────┬────┐\n│ a      │  1 │\n│ longer │ 22 │\n└────────┴────┘\n");
    }
}
