//! Which of a sweep's cases a run tries.

/// The cases that the environment asks for, evenly spread and the same ones each time. The variable says how many:
/// `FAULTS=300`, or `FAULTS=all`. `FAULTS_PART=2/5` takes the second of five parts of those, so that a long run can
/// be made in pieces; the parts together are the whole.
///
/// # Panics
/// When a variable is no number, or no part.
#[must_use]
pub fn pick<T: Copy>(cases: &[T], variable: &str, default: usize) -> Vec<T> {
    let count = match std::env::var(variable) {
        Ok(text) if text == "all" => cases.len(),
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?}")),
        Err(_) => default,
    };
    let (part, parts) = match std::env::var("FAULTS_PART") {
        Ok(text) => part_of(&text).unwrap_or_else(|| panic!("FAULTS_PART: {text:?}")),
        Err(_) => (1, 1),
    };
    let count = count.min(cases.len());
    let picked = (0..count).map(|n| cases[n * cases.len() / count]);
    // Every fifth, and not a fifth in one piece: each part is a sample of the whole.
    picked.enumerate().filter(|(n, _)| n % parts == part - 1).map(|(_, case)| case).collect()
}

/// `2/5`.
fn part_of(text: &str) -> Option<(usize, usize)> {
    let (part, parts) = text.split_once('/')?;
    let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
    (1..=parts).contains(&part).then_some((part, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_a_whole() {
        assert_eq!(part_of("2/5"), Some((2, 5)));
        assert_eq!(part_of("1/1"), Some((1, 1)));
        for wrong in ["", "2", "0/5", "6/5", "a/5", "1/0"] {
            assert_eq!(part_of(wrong), None, "{wrong:?}");
        }
    }
}
