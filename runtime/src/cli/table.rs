//! Text tables as Go's text/tabwriter makes them for runc: columns at least 12 wide, 3 apart.

const LEAST_WIDTH: usize = 12;
const PADDING: usize = 3;

/// Lines of left-aligned columns, each as wide as its widest cell; the last is not padded.
pub(super) fn elastic<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let mut widths = [LEAST_WIDTH; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            text.push_str(cell);
            if column + 1 < N {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_tabwriter() {
        let row = |cells: [&str; 4]| cells.map(String::from);
        assert_eq!(
            elastic(
                [row(["ID", "PID", "BUNDLE", "OWNER"]), row(["c1", "9607", "/tmp/cli-b", "root"])]
                    .into_iter()
            ),
            "ID          PID         BUNDLE       OWNER\nc1          9607        /tmp/cli-b   root\n"
        );
    }
}
