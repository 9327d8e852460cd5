//! The members of a JSON object, as they stand in the text.

/// Objects and arrays nest no deeper than this in statistics that are believed.
const DEPTH_MAX: usize = 64;

/// A JSON string without its quotes and escapes.
pub(super) fn text(raw: &str) -> Option<String> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok()
    } else {
        Some(inner.to_string())
    }
}

/// Whether a raw key (escapes not undone) names the column.
pub(super) fn is_key(raw: &str, column: &str) -> bool {
    if raw.contains('\\') {
        text(&format!("\"{raw}\"")).as_deref() == Some(column)
    } else {
        raw == column
    }
}

/// Calls back with each raw key and raw value of a JSON object; `None` when the text is no object.
/// Builds nothing: a snapshot may have a hundred thousand of these with a hundred columns each.
pub(super) fn members<'a>(json: &'a str, mut found: impl FnMut(&'a str, &'a str)) -> Option<()> {
    let bytes = json.as_bytes();
    let mut at = blank(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    at = blank(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Some(());
    }
    loop {
        let key_end = string_end(bytes, at)?;
        let key = json.get(at + 1..key_end - 1)?;
        at = blank(bytes, key_end);
        if bytes.get(at) != Some(&b':') {
            return None;
        }
        at = blank(bytes, at + 1);
        let end = value_end(bytes, at)?;
        found(key, json.get(at..end)?);
        at = blank(bytes, end);
        match bytes.get(at) {
            Some(b',') => at = blank(bytes, at + 1),
            Some(b'}') => return Some(()),
            _ => return None,
        }
    }
}

fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Behind the closing quote of the string that starts here.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the value that starts here.
fn value_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b'}' | b']' if depth == 0 => return (at > start).then_some(at),
            b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return (at > start).then_some(at),
            _ => at += 1,
        }
        if depth > DEPTH_MAX {
            return None;
        }
        if depth == 0 && matches!(bytes.get(at - 1), Some(b'"' | b'}' | b']')) {
            return Some(at);
        }
    }
}
