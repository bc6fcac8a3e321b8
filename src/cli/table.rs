//! Tables for people: each column is as wide as its widest cell.

/// The rows beneath their headings; the last column is not padded.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.fold(headings[column].len(), usize::max)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let headings = headings.map(str::to_owned);
    let mut text = String::new();
    for row in [&headings].into_iter().chain(rows) {
        for (cell, width) in row.iter().zip(&widths).take(N - 1) {
            text += &format!("{cell:width$}  ");
        }
        text += &row[N - 1];
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_wider_than_its_heading_shifts_its_whole_column() {
        let rows = [
            ["1".to_owned(), "é".to_owned(), "x".to_owned()],
            ["12345".to_owned(), "zwei".to_owned(), String::new()],
        ];
        let shown = "ID     NAME  REST\n1      é     x\n12345  zwei  \n";
        assert_eq!(table(["ID", "NAME", "REST"], &rows), shown);
    }

    #[test]
    fn a_table_without_rows_has_its_headings() {
        assert_eq!(table(["A", "B"], &[]), "A  B\n");
    }
}
